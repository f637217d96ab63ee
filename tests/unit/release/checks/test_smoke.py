"""Answers are checked against the expectations of their slices."""

import pytest

from llmstack.client.ensemble_client import Reply
from llmstack.release.checks.slice_file import Expectations, Slice
from llmstack.release.checks.smoke import FAILED, PASSED, SliceResult, find_faults, find_mismatches, run_slices
from tests.releases import write_release
from tests.unit.release.checks.fake_ensemble import answer_of


def answer(text: str, **outputs) -> Reply:
    results = {"schema_valid": True, "finish_reason": "stop", "cost_usd": 0.001, "num_input_tokens": 10}
    results |= {"num_output_tokens": 5, "queue_delay_us": 100}
    return Reply({name: [value] for name, value in {"text_output": text, **results, **outputs}.items()}, "200")


@pytest.mark.parametrize(
    ("expect", "fault"),
    [
        ({"values": {"/verdict": "pass"}}, '/verdict is "fail", expected "pass"'),
        ({"values": {"/score": 7}}, "nothing at /score, expected 7"),
        ({"values": {"/ok": 1}}, "/ok is true, expected 1"),
        ({"schema_valid": False}, "schema_valid is True, expected False"),
        ({"finish_reason": "length"}, "finish_reason is 'stop', expected 'length'"),
        ({"max_cost_usd": 0.0001}, "cost_usd is 0.001, at most 0.0001 expected"),
        ({"max_input_tokens": 9}, "num_input_tokens is 10, at most 9 expected"),
        ({"max_output_tokens": 4}, "num_output_tokens is 5, at most 4 expected"),
        ({"max_queue_delay_us": 99}, "queue_delay_us is 100, at most 99 expected"),
    ],
)
def test_each_unmet_expectation_is_a_fault(expect, fault):
    assert find_faults(Expectations(**expect), answer('{"verdict":"fail","ok":true}')) == [fault]


def test_an_answer_as_expected_has_no_fault():
    expect = Expectations(
        values={"/verdict": "fail", "/n": 1.0}, schema_valid=True, finish_reason="stop", max_cost_usd=0.001
    )
    assert find_faults(expect, answer('{"verdict":"fail","n":1}')) == []


def test_a_rejected_request_and_an_answer_that_is_not_json_are_faults():
    assert find_faults(Expectations(), Reply({}, "400", "invalid_input: no")) == ["rejected: invalid_input: no"]
    assert find_faults(Expectations(values={"": 1}), answer("{")) == ["text_output is not JSON"]


def test_a_slice_for_another_engine_is_found(tmp_path):
    release = write_release(tmp_path / "r1")
    engine = release.manifest.engine
    expect = Expectations(schema_valid=True)
    fits = Slice(id="a", text_input="x", engine_hash=engine.hash, quantisation=engine.quantisation, expect=expect)
    assert find_mismatches(release, fits) == []
    assert find_mismatches(release, Slice(id="a", text_input="x", expect=expect)) == []
    other = fits.model_copy(update={"engine_hash": "sha256:" + "0" * 64, "quantisation": "fp16"})
    assert [fault.split(",")[0][:14] for fault in find_mismatches(release, other)] == [
        "is for engine_",
        "is for quantis",
    ]


def test_an_answer_that_is_not_json_fails_only_its_slice(ensemble, target):
    good = answer_of(target, lambda inputs: {"schema_valid": True, "text_output": "{}"})
    ensemble.answer = lambda inputs: "<html>busy</html>" if inputs["text_input"] == "bad" else good(inputs)
    is_valid = Expectations(schema_valid=True)
    slices = [Slice(id=text, task="judge", text_input=text, expect=is_valid) for text in ("good", "bad")]
    results = run_slices(target, {"judge": slices}, 2, lambda result: None)
    assert [result.status for result in results] == [PASSED, FAILED]
    assert "not a response of Triton: '<html>busy</html>'" in results[1].faults[0]


def test_a_record_has_the_keys_of_smoke_json():
    keys = ["group", "id", "verdict", "faults", "seconds", "cost_usd", "num_output_tokens", "queue_delay_us", "task"]
    record = SliceResult("judge", "judge-1", FAILED, ("no",)).to_record()
    assert (list(record), record["verdict"]) == (keys, "failed")
