"""What a stub reads from its environment and from a request."""

import numpy as np
import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.release.release import ReleaseError
from llm_policy.steps.column import Column
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.pb_utils import InferenceRequest
from tests.unit.llm_policy.triton.policy_models import release_with


def test_the_release_is_the_one_that_the_environment_names(triton, monkeypatch):
    monkeypatch.setenv("LLMSTACK_RELEASE_DIR", str(DEFAULT_RELEASE_DIR))
    assert triton.adapter.open_release().manifest.engine.model == "embedded-qwen3"


def test_a_missing_release_keeps_the_model_from_loading(triton, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMSTACK_RELEASE_DIR", str(tmp_path / "none"))
    with pytest.raises(ReleaseError):
        triton.adapter.open_release()


def test_a_release_with_a_changed_file_keeps_the_model_from_loading(triton, monkeypatch, tmp_path):
    release = release_with(tmp_path)
    with (release / "engine" / "config.json").open("a") as config:
        config.write("\n")
    monkeypatch.setenv("LLMSTACK_RELEASE_DIR", str(release))
    with pytest.raises(ReleaseError, match="hash"):
        triton.adapter.open_release()


def test_the_server_needs_a_state_directory(triton, monkeypatch):
    monkeypatch.delenv("LLMSTACK_STATE_DIR", raising=False)
    with pytest.raises(ReleaseError, match="LLMSTACK_STATE_DIR is not set"):
        triton.adapter.state_directory()


def test_parameters_that_are_not_utf_8_are_an_invalid_header(triton):
    request = InferenceRequest({}, [], parameters=b'{"X-Tenant":"\xff"}')
    with pytest.raises(InvalidRequest) as caught:
        triton.adapter.read_parameters(request)
    assert caught.value.code is Code.INVALID_HEADER


def test_inputs_are_read_by_name(triton):
    request = InferenceRequest({"text_input": np.array([["hello"]], np.object_)}, [])
    assert triton.adapter.read_inputs(request)["text_input"].tolist() == [[b"hello"]]


def test_a_repeating_tensor_is_shared_between_responses_and_a_varying_one_is_not(triton):
    cache = triton.tensor_cache.TensorCache()
    columns = {"end_id": Column((7,), np.int32), "text_output": Column((b"yes",), np.object_)}
    first, second = (triton.adapter.build_response(cache, columns).output_tensors() for _ in range(2))
    assert [tensor.name() for tensor in first] == ["end_id", "text_output"]
    assert [one is other for one, other in zip(first, second, strict=True)] == [True, False]
