"""Sampling: the task's defaults, overridden by the client within fixed ranges."""

import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.release.manifest import Task
from llm_policy.rules.sampling import choose_sampling

JUDGE = Task(temperature=0.1, top_p=0.9)
GREEDY = Task(temperature=0.0)


def test_temperature_zero_reaches_the_engine_as_top_k_one():
    assert choose_sampling(GREEDY, {}).top_k == 1


def test_the_judge_task_uses_its_own_temperature_and_top_p():
    sampling = choose_sampling(JUDGE, {})
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.1, 0, 0.9)


def test_without_task_and_overrides_a_request_is_greedy():
    assert choose_sampling(None, {}).top_k == 1


def test_a_client_overrides_the_task():
    sampling = choose_sampling(JUDGE, {"temperature": 0.7, "top_k": 40, "seed": 9, "min_tokens": 2})
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 40, 0.9)
    assert (sampling.seed, sampling.min_tokens) == (9, 2)


def test_sampling_without_top_p_passes_an_explicit_default():
    assert choose_sampling(None, {"temperature": 0.5}).top_p == 1.0


def test_temperature_zero_overrides_the_clients_top_k():
    assert choose_sampling(GREEDY, {"top_k": 50}).top_k == 1


BAD = [
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", -0.1),
    ("temperature", 2.5),
    ("temperature", 1e-9),
    ("top_p", 0.0),
    ("top_p", 1.01),
    ("top_k", -1),
    ("top_k", 1025),
    ("repetition_penalty", 0.0),
    ("presence_penalty", 3.0),
    ("frequency_penalty", float("-inf")),
    ("min_tokens", -1),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_out_of_range_is_rejected_with_range_and_value(name, value):
    with pytest.raises(InvalidRequest, match=rf"^invalid_input: {name} is {value:g}, allowed ") as caught:
        choose_sampling(JUDGE, {name: value})
    assert caught.value.code is Code.INVALID_INPUT
