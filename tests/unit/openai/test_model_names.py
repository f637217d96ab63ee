"""A model's name may carry a task."""

from __future__ import annotations

import pytest

from llmstack.openai.error import ApiError
from llmstack.openai.model_names import ModelNames

QWEN = ModelNames("Qwen/Qwen3-32B", ("judge",))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Qwen/Qwen3-32B", ""),
        ("qwen3-32b", ""),
        ("ensemble", ""),
        ("qwen3-32b:judge", "judge"),
        ("Qwen/Qwen3-32B:poet", "poet"),
    ],
)
def test_a_name_is_the_model_with_or_without_a_task(name, task):
    assert QWEN.task_of(name) == task


@pytest.mark.parametrize("name", ["gpt", "", ":judge", "gpt:judge", "qwen3-32b:", "qwen3"])
def test_another_name_is_not_found(name):
    with pytest.raises(ApiError) as raised:
        QWEN.task_of(name)
    assert (raised.value.status, raised.value.param) == (404, "model")


def test_without_a_release_every_name_is_the_model():
    names = ModelNames()
    assert (names.ids, names.task_of("gpt"), names.task_of("gpt:judge")) == (["ensemble"], "", "judge")


def test_the_list_has_the_model_and_its_tasks():
    assert QWEN.ids == ["Qwen/Qwen3-32B", "Qwen/Qwen3-32B:judge"]
