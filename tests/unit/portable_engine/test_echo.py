"""The no-op engine: as many tokens as a request may have, immediately."""

import time

import numpy as np
import pytest

from portable_engine.guide_types import GUIDE_TYPES
from tests import pb_utils
from tests.pb_utils import InferenceRequest, infer

OUTPUTS = ("output_ids", "sequence_length", "num_input_tokens", "num_output_tokens", "cum_log_probs")
CLOCKS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


@pytest.fixture
def model():
    with pb_utils.installed("portable_engine.echo") as (module,):
        model = module.EchoModel()
        model.initialize({})
        yield model
        model.finalize()


def request(num_tokens, num_prompt_tokens=3, outputs=OUTPUTS, **inputs):
    """One row per number of tokens."""
    lengths = np.full((len(num_tokens), 1), num_prompt_tokens, np.int32)
    limits = np.array(num_tokens, np.int32).reshape(-1, 1)
    return InferenceRequest({"input_lengths": lengths, "request_output_len": limits, **inputs}, outputs)


def guide_types(*names):
    """The input with each row's type of guide."""
    return {"guided_decoding_guide_type": np.array(names, np.object_).reshape(-1, 1)}


def test_a_row_gets_as_many_tokens_as_it_may_have(model):
    (answer,) = infer(model, request([2, 30]))
    assert answer.outputs["output_ids"].shape == (2, 1, 30)
    assert answer.outputs["output_ids"][:, 0, :3].tolist() == [[64, 65, 66]] * 2
    assert answer.outputs["output_ids"][0, 0, 26:].tolist() == [64, 65, 66, 67]
    assert answer.outputs["sequence_length"].tolist() == answer.outputs["num_output_tokens"].tolist() == [[2], [30]]
    assert answer.outputs["num_input_tokens"].tolist() == [[3], [3]]


def test_the_timestamps_are_equal(model):
    (answer,) = infer(model, request([1, 1], outputs=CLOCKS))
    times = {int(value) for name in CLOCKS for value in answer.outputs[name].flat}
    assert len(times) == 1
    assert 0 < times.pop() <= time.monotonic_ns()


def test_only_requested_outputs_become_tensors(model):
    responses = model.execute([request([1]), request([5], outputs=("sequence_length",))])
    names = [{tensor.name() for tensor in response.output_tensors()} for response in responses]
    assert names == [set(OUTPUTS) - {"cum_log_probs"}, {"sequence_length"}]


@pytest.mark.parametrize("guide_type", ["", *GUIDE_TYPES])
def test_a_guide_of_a_known_type_is_accepted(model, guide_type):
    (answer,) = infer(model, request([2], **guide_types(guide_type)))
    assert answer.outputs["sequence_length"].tolist() == [[2]]


@pytest.mark.parametrize("name", ["xml", b"\xff", "Json"])
def test_a_guide_of_an_unknown_type_in_any_row_rejects_its_request_alone(model, name):
    bad, good = infer(model, request([2, 2], **guide_types("json", name)), request([2]))
    assert (bad.status, bad.error) == (
        "INVALID_ARG",
        "schema_invalid: unknown guide type, allowed: json, json_schema, regex, ebnf_grammar, lark_grammar",
    )
    assert good.error is None
