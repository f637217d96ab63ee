"""Properties of the two steps on plain arrays."""

import json
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.errors import PolicyError
from llm_policy.guidance.guide import EngineGuide, GuideResolver
from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llm_policy.steps.column import Column
from llm_policy.steps.policy_decision import FIELDS, unpack_records
from llm_policy.steps.postprocess import Postprocess
from llm_policy.steps.preprocess import Preprocess
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.tensors import ENSEMBLE_INPUTS
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.hypothesis_profiles import num_examples
from tests.survivors import keep_if, keeps_at_least
from tests.tenants import MemoryDirectory

FLOATS = st.floats(width=32) | st.sampled_from([0.0, 0.1, 0.9, 1.0])
INTEGERS = st.integers(-(2**31), 2**31 - 1) | st.integers(0, 300)
TEXTS = st.binary(max_size=12) | st.sampled_from(
    [
        b"judge",
        b"generate_json",
        b"order",
        b"verdict",
        b"json",
        b"regex",
        b"choice",
        b'["a"]',
        b"{}",
        b"",
        b"a\0",
        b"[ab]",
    ]
)
MESSAGES = st.sampled_from(
    [b"", b"[]", b"[", b'[{"role":"user","content":"hi"}]', b'[{"role":"x","content":1}]', b"\xff"]
)
VALUES = {
    "TYPE_STRING": (TEXTS, np.object_),
    "TYPE_INT32": (INTEGERS, np.int32),
    "TYPE_FP32": (FLOATS, np.float32),
    "TYPE_UINT64": (st.integers(0, 2**64 - 1), np.uint64),
    "TYPE_BOOL": (st.booleans(), np.bool_),
}
# Inputs of a request that is usually admitted.
USUAL_VALUES = {
    "text_input": st.text("abc é{", max_size=40).map(str.encode),
    "messages": st.just(b'[{"role":"user","content":"hi"}]'),
    "task": st.sampled_from(TASKS).map(str.encode),
    "max_tokens": st.integers(1, 6_000),
    "seed": st.integers(0, 2**64 - 1),
    "return_log_probs": st.booleans(),
    "exclude_input_in_output": st.booleans(),
    "stop_words": st.sampled_from([b"stop", b"\n"]),
    "temperature": st.floats(0.125, 2, width=32),
    "top_k": st.integers(0, 1_024),
    "top_p": st.floats(0.125, 1, width=32),
    "repetition_penalty": st.floats(0.125, 8, width=32),
    "presence_penalty": st.floats(-2, 2, width=32),
    "frequency_penalty": st.floats(-2, 2, width=32),
}


@cache
def release():
    return Release.open(DEFAULT_RELEASE_DIR)


@cache
def preprocess():
    manifest = release().manifest
    guides = GuideResolver(manifest.guidance, {name: release().schema_text(name) for name in manifest.schemas})
    return Preprocess(manifest, Tokenizer.load(release().tokenizer_dir), guides)


@cache
def postprocess():
    return Postprocess(release().manifest, Tokenizer.load(release().tokenizer_dir))


@cache
def headers():
    engine = release().manifest.engine
    return json.dumps({"X-Engine-Hash": engine.hash, "X-Quantisation": engine.quantisation})


def prepare(inputs, parameters):
    step = preprocess()
    return step.run(inputs, step.check(parameters), MemoryDirectory())


@st.composite
def requests(draw, num_rows=None):
    """Arrays of the right types for some of the ensemble's inputs, with any values or with usual ones."""
    rows = num_rows or draw(st.integers(1, 4))
    is_usual = draw(st.booleans())
    inputs = {}
    for spec in ENSEMBLE_INPUTS:
        if spec.name != "text_input" and draw(st.integers(0, 3)):
            continue
        if is_usual and spec.name not in USUAL_VALUES:
            continue
        values, data_type = VALUES[spec.data_type]
        width = draw(st.integers(0, 3)) if spec.dims == (-1,) else 1
        cells = USUAL_VALUES[spec.name] if is_usual else MESSAGES if spec.name == "messages" else values
        flat = draw(st.lists(cells, min_size=rows * width, max_size=rows * width))
        array = np.empty((rows, width), data_type)
        array.reshape(-1)[:] = flat
        inputs[spec.name] = array
    if draw(st.booleans()):
        inputs.pop("messages", None)
    return inputs


def outcome(inputs, parameters=None):
    """The prepared request; the error's text if it is rejected."""
    prepared = prepare(inputs, parameters or headers())
    if (error := prepared.error) is None:
        assert len(prepared.engine_rows) == len(prepared.records)
        return prepared
    assert isinstance(error, PolicyError)
    assert str(error).startswith(f"{error.code.value}: ")
    assert prepared.records
    assert not prepared.engine_rows
    return str(error)


def tensors_of(prepared):
    guides = [row.guide for row in prepared.engine_rows]
    compiled = [EngineGuide("ebnf_grammar", guide.text, guide.name) if guide else None for guide in guides]
    tensors = preprocess().pack(prepared.records, prepared.engine_rows, compiled)
    return {name: value.array() if isinstance(value, Column) else value for name, value in tensors.items()}


@keeps_at_least(0.1)
@settings(max_examples=num_examples(250))
@given(requests())
def test_every_request_is_admitted_or_rejected_with_a_declared_code(inputs):
    prepared = outcome(inputs)
    keep_if(not isinstance(prepared, str))
    tensors_of(prepared)


NAMES = st.sampled_from(["X-Engine-Hash", "x-quantisation", "X-Tenant"]) | st.text(max_size=5)
PARAMETERS = st.dictionaries(NAMES, st.text(max_size=200) | st.integers() | st.booleans() | st.floats() | st.none())


@given(PARAMETERS.map(json.dumps))
def test_any_parameters_are_admitted_or_rejected_with_a_declared_code(parameters):
    outcome({"text_input": np.array([[b"x"]], np.object_)}, parameters)


@keeps_at_least(0.1)
@settings(max_examples=num_examples(150))
@given(requests(num_rows=1))
def test_every_admitted_request_stays_within_the_token_budget(inputs):
    prepared = outcome(inputs)
    keep_if(not isinstance(prepared, str))
    tensors = tensors_of(prepared)
    limit = release().manifest.thresholds.max_tokens
    assert tensors["request_output_len"][0, 0] >= 1
    assert tensors["input_lengths"][0, 0] + tensors["request_output_len"][0, 0] <= limit


@keeps_at_least(0.1)
@settings(max_examples=num_examples(100))
@given(st.lists(requests(num_rows=1), min_size=2, max_size=4))
def test_a_batch_of_n_rows_gives_the_same_decisions_as_n_single_rows(singles):
    shared = set.intersection(*(set(single) for single in singles))
    shared = {name for name in shared if len({single[name].shape for single in singles}) == 1}
    singles = [{name: single[name] for name in single if name in shared} for single in singles]
    alone = [outcome(single) for single in singles]
    together = outcome({name: np.concatenate([single[name] for single in singles]) for name in singles[0]})
    rejected = {number: prepared for number, prepared in enumerate(alone) if isinstance(prepared, str)}
    if rejected:
        assert together in {*rejected.values(), *(f"{error} (row {number})" for number, error in rejected.items())}
    keep_if(not rejected)
    decided = [prepared.records[0]._replace(row_number=number) for number, prepared in enumerate(alone)]
    assert together.records == decided


@settings(max_examples=num_examples(150))
@given(st.lists(st.integers(0, 5_000), max_size=30))
def test_any_tokens_from_the_engine_become_an_answer(ids):
    prepared = prepare({"text_input": np.array([[b"x"]], np.object_)}, headers())
    tensors = tensors_of(prepared)
    clock = np.array([[7]], np.int64)
    inputs = {
        "output_ids": np.array([[ids]], np.int32),
        "sequence_length": np.array([[len(ids)]], np.int32),
        "num_output_tokens": np.array([[len(ids)]], np.int32),
        "policy_decision": tensors["policy_decision"],
        **{f"{name}_time_ns": clock for name in ("arrival", "first_scheduled", "first_token", "last_token")},
    }
    step = postprocess()
    (answer,) = step.run(inputs, step.records(inputs))
    assert answer.record.actual_nano_usd >= 0
    assert unpack_records(tensors["policy_decision"]) == prepared.records
    assert answer.record[: len(FIELDS)] == prepared.records[0][: len(FIELDS)]
