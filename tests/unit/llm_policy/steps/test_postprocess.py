"""Postprocess: detokenization, validation, price and flags of an answer."""

from typing import Any

import numpy as np
import pytest

from llm_policy.errors import Code
from llm_policy.ledger.row_record import RowRecord
from llm_policy.steps.policy_decision import pack_records
from llm_policy.steps.postprocess import Answer, Postprocess, withheld
from tests.manifests import ENGINE_HASH, manifest

END = 1
SCHEMA = '{"type":"object"}'


class Letters:
    """A tokenizer whose token n is the character n."""

    def decode(self, ids):
        return "".join(map(chr, ids))


STEP = Postprocess(manifest(), Letters())
ADMITTED = RowRecord(
    request_id="r-1", task="judge", num_prompt_tokens=3, max_completion_tokens=10, end_id=END, ledger_id=7
)


def engine_output(text, *, end=True, record=ADMITTED, queue_delay_ns=0, num_input_tokens=3):
    ids = [ord(c) for c in text] + ([END] if end else [])
    clocks = {
        "arrival_time_ns": 1_000_000,
        "first_scheduled_time_ns": 1_000_000 + queue_delay_ns,
        "first_token_time_ns": 6_000_000,
        "last_token_time_ns": 9_000_000,
    }
    prompt = num_input_tokens if record.includes_prompt else 0
    return {
        "output_ids": np.array([[ids]], np.int32),
        "sequence_length": np.array([[len(ids)]], np.int32),
        "num_input_tokens": np.array([[num_input_tokens]], np.int32),
        "num_output_tokens": np.array([[len(ids) - prompt]], np.int32),
        "policy_decision": pack_records([record]),
        **{name: np.array([[value]], np.int64) for name, value in clocks.items()},
    }


def answers(step, inputs):
    return step.run(inputs, step.records(inputs))


def answer(text, **changes):
    (only,) = answers(STEP, engine_output(text, **changes))
    return only


def test_an_answer_that_ends_with_end_id_has_finish_reason_stop():
    assert answer("hi").record.finish_reason == "stop"


def test_the_end_token_is_not_in_the_text():
    assert answer("hi").text == "hi"


def test_a_stop_word_is_removed_from_the_text():
    record = ADMITTED._replace(stop_words=((ord("!"), ord("?")),))
    stopped = answer("hi!?", end=False, record=record)
    assert (stopped.record.finish_reason, stopped.text) == ("stop", "hi")


def test_an_answer_that_uses_all_allowed_tokens_is_truncated():
    cut = answer("0123456789", end=False)
    assert (cut.record.finish_reason, cut.record.flags) == ("length", ("truncated",))


def test_a_shorter_answer_without_end_id_has_finish_reason_stop():
    assert answer("hi", end=False).record.finish_reason == "stop"


def test_an_answer_that_ended_immediately_is_empty():
    assert (answer("", end=False).record.finish_reason, answer("", end=False).text) == ("stop", "")


def test_cost_counts_prompt_and_completion_in_nano_dollars():
    assert answer("hi").record.actual_nano_usd == 3 * 100 + 3 * 300


def test_clocks_become_microseconds():
    timed = answer("hi", queue_delay_ns=2_500_999)
    assert (timed.record.queue_delay_us, timed.record.time_to_first_token_us, timed.record.total_time_us) == (
        2_500,
        5_000,
        8_000,
    )


def test_a_queue_delay_at_the_threshold_is_not_a_breach():
    assert answer("hi", queue_delay_ns=2_500_000).record.flags == ()


def test_a_queue_delay_over_the_threshold_is_flagged():
    assert answer("hi", queue_delay_ns=2_501_000).record.flags == ("queue_delay_breach",)


def test_a_cost_over_the_threshold_is_flagged():
    costly = Postprocess(manifest(thresholds={"max_cost_usd": 0.000001}), Letters())
    (flagged,) = answers(costly, engine_output("hi"))
    assert flagged.record.flags == ("cost_breach",)


@pytest.mark.parametrize(("text", "valid", "flags"), [("{}", True, ()), ("[]", False, ("schema_violation",))])
def test_a_guided_answer_is_validated_against_the_clients_schema(text, valid, flags):
    guided = ADMITTED._replace(schema_id="order", guide_kind="json_schema", guide_text=SCHEMA)
    validated = answer(text, record=guided)
    assert (validated.record.schema_valid, validated.record.flags) == (valid, flags)


def test_truncated_json_is_truncated_and_never_valid():
    guided = ADMITTED._replace(guide_kind="json_schema", guide_text=SCHEMA, max_completion_tokens=2)
    cut = answer("{}", end=False, record=guided)
    assert (cut.record.schema_valid, cut.record.flags) == (False, ("truncated",))


def test_a_prompt_is_returned_before_the_answer_if_requested():
    echoed = answer("ab{}", record=ADMITTED._replace(includes_prompt=True, num_prompt_tokens=2), num_input_tokens=2)
    assert (echoed.text, echoed.record.num_completion_tokens) == ("ab{}", 3)


def test_only_requested_outputs_are_built():
    inputs = engine_output("hi")
    tensors: dict[str, Any] = STEP.pack(answers(STEP, inputs), {"text_output", "engine_hash", "flags"})
    assert set(tensors) == {"text_output", "engine_hash", "flags"}
    assert tensors["engine_hash"].array().tolist() == [[ENGINE_HASH.encode()]]
    assert tensors["flags"].shape == (1, 0)


@pytest.mark.parametrize(
    ("timeout_us", "text"),
    [
        (0, "deadline_exceeded: the answer took 0.008 s, limit 0.008 s (max_answer_s)"),
        (9_000, "deadline_exceeded: the answer took 0.008 s, limit 0.008 s (max_answer_s)"),
        (5_000, "deadline_exceeded: the answer took 0.008 s, limit 0.005 s (timeout)"),
    ],
)
def test_a_request_that_took_longer_than_its_limit_is_an_error(timeout_us, text):
    engine = {"hash": ENGINE_HASH, "quantisation": "w4a8", "model": "m", "max_answer_s": 0.008}
    step = Postprocess(manifest(engine=engine), Letters())
    assert str(step.deadline_error(answers(step, engine_output("hi")), timeout_us)) == text


def test_a_request_within_its_limits_is_no_error():
    assert STEP.deadline_error([answer("hi")], 9_000) is None
    assert STEP.deadline_error([answer("hi")], 0) is None


def test_an_answer_that_came_too_late_keeps_its_usage_and_violates_no_schema():
    flags = ("queue_delay_breach", "cost_breach", "schema_violation", "truncated")
    record = answer("hi").record._replace(flags=flags)
    (late,) = withheld([Answer(record, "hi")], Code.DEADLINE_EXCEEDED)
    assert late.text == ""
    assert late.record == record._replace(code="deadline_exceeded", is_cut=True, flags=flags[:2])
