"""postprocess in the stub: an answer is sent only after its row is settled; otherwise its client gets an error."""

import json
import re

import numpy as np
import pytest

from llm_policy.ledger.ledger import Ledger
from llm_policy.steps.ledger_writer import LedgerWriter
from llm_policy.text.tokenizer import Tokenizer
from llmstack.paths import SOURCE_ROOT
from tests.ledgers import full_disk
from tests.pb_utils import InferenceRequest, infer
from tests.unit.llm_policy.triton.policy_models import (
    CANARY_HEADERS,
    HEADERS,
    POSTPROCESS_NAMES,
    VERDICT,
    engine_outputs,
    finished,
    ledger_rows,
    log_lines,
    raising,
    read_metrics,
    request,
    states,
    text_of,
)

INTERNAL = re.compile(r"internal: unexpected error, reference ([0-9a-f]{12})")
SECRET = "tulip-marmalade"


class Panic(BaseException):
    """What a native library raises; not an Exception."""


def prepare(policy, *requests):
    """What preprocess sends to the engine for each request."""
    return infer(policy.preprocess, *requests)


def value(answer, name):
    return answer.outputs[name].tolist()


def test_an_answer_has_its_text_and_its_row_is_settled(policy, capfd):
    (prepared,) = prepare(policy, request("judged", {"task": "judge", "text_input": SECRET}))
    (answer,) = infer(policy.postprocess, finished(prepared, VERDICT))
    assert text_of(answer) == VERDICT
    assert (value(answer, "finish_reason"), value(answer, "schema_valid")) == ([[b"stop"]], [[True]])
    assert value(answer, "resolved_schema_id") == [[b"verdict"]]
    assert value(answer, "engine_hash") == [[HEADERS["X-Engine-Hash"].encode()]]
    times = [value(answer, name) for name in ("queue_delay_us", "time_to_first_token_us", "total_time_us")]
    assert times == [[[1_000]], [[2_000]], [[3_000]]]
    (row,) = ledger_rows(policy.state_dir, "judged")
    assert (row["state"], row["queue_delay_us"], row["task"]) == ("settled", 1_000, "judge")
    assert value(answer, "cost_usd") == [[row["actual_nano_usd"] / 1e9]]
    output = capfd.readouterr().out
    (line,) = log_lines(output)
    assert (line["request_id"], line["outcome"], line["finish_reason"]) == ("judged", "settled", "stop")
    assert line["num_completion_tokens"] == row["num_completion_tokens"] > 0
    assert SECRET not in output
    assert "person" not in output


def test_a_response_has_the_requested_outputs_only(policy):
    (prepared,) = prepare(policy, request("few"))
    (answer,) = infer(policy.postprocess, finished(prepared, "yes", outputs=["text_output"]))
    assert set(answer.outputs) == {"text_output"}


def test_each_row_of_a_request_has_its_answer(policy):
    (prepared,) = prepare(policy, request("rows", {"text_input": ["one", "two"]}))
    (answer,) = infer(policy.postprocess, finished(prepared, "first", "the second"))
    assert [text_of(answer, row) for row in (0, 1)] == ["first", "the second"]
    assert states(policy.state_dir, "rows") == [("settled", "")] * 2


def test_the_row_is_settled_before_the_response(policy, monkeypatch):
    seen = []
    deliver = InferenceRequest.deliver

    def record(self, response):
        seen.append(states(policy.state_dir, "before"))
        deliver(self, response)

    (prepared,) = prepare(policy, request("before"))
    monkeypatch.setattr(InferenceRequest, "deliver", record)
    infer(policy.postprocess, finished(prepared, "yes"))
    assert seen == [[("settled", "")]]


def test_an_answer_whose_row_is_not_open_is_withheld_and_the_others_are_sent(policy, capfd):
    first, second = prepare(policy, request("once"), request("other"))
    infer(policy.postprocess, finished(first, "first answer"))
    settled = ledger_rows(policy.state_dir, "once")
    capfd.readouterr()
    repeated, other = infer(policy.postprocess, finished(first, SECRET), finished(second, "second answer"))
    assert text_of(other) == "second answer"
    assert repeated.status == "INTERNAL"
    reference = INTERNAL.fullmatch(repeated.error)[1]
    output = capfd.readouterr().out
    assert f'"reference":"{reference}"' in output
    assert [(line["request_id"], line["outcome"], line["code"]) for line in log_lines(output)] == [
        ("once", "refused", "internal"),
        ("other", "settled", ""),
    ]
    assert SECRET not in output
    assert ledger_rows(policy.state_dir, "once") == settled
    assert states(policy.state_dir, "other") == [("settled", "")]


def test_one_unsettled_row_withholds_its_whole_request(policy, monkeypatch):
    two_rows, other = prepare(policy, request("pair", {"text_input": ["one", "two"]}), request("single"))
    settle = Ledger.settle
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "settle", lambda ledger, rows: [True, False, *settle(ledger, rows)[2:]])
        pair, single = infer(policy.postprocess, finished(two_rows, "a", "b"), finished(other, "c"))
    assert INTERNAL.fullmatch(pair.error)
    assert text_of(single) == "c"


def test_answers_that_cannot_be_recorded_are_withheld_and_their_rows_closed_later(own_policy, capfd):
    prepared = prepare(own_policy, request("full-1"), request("full-2"))
    with full_disk():
        answers = infer(own_policy.postprocess, *(finished(each, SECRET) for each in prepared))
    assert [(answer.status, answer.error.split(":")[0]) for answer in answers] == [
        ("UNAVAILABLE", "ledger_unavailable")
    ] * 2
    assert str(own_policy.state_dir) not in answers[0].error
    output = capfd.readouterr().out
    assert [(line["outcome"], line["code"]) for line in log_lines(output)] == [("refused", "ledger_unavailable")] * 2
    (next_prepared,) = prepare(own_policy, request("next"))
    assert text_of(infer(own_policy.postprocess, finished(next_prepared, "yes"))[0]) == "yes"
    assert states(own_policy.state_dir, "full-1", "full-2") == [("refused", "ledger_unavailable")] * 2


@pytest.mark.parametrize("error", [RuntimeError(SECRET), Panic(SECRET)], ids=["exception", "panic"])
def test_an_unexpected_exception_is_an_internal_error_of_its_request(policy, monkeypatch, capfd, error):
    names = (type(error).__name__, f"beside-{type(error).__name__}")
    prepared = prepare(policy, *map(request, names))
    decode = Tokenizer.decode

    def fail_on_secret(tokenizer, ids):
        if (text := decode(tokenizer, ids)) == SECRET:
            raise error
        return text

    monkeypatch.setattr(Tokenizer, "decode", fail_on_secret)
    bad, good = infer(policy.postprocess, finished(prepared[0], SECRET), finished(prepared[1], "yes"))
    assert text_of(good) == "yes"
    assert bad.status == "INTERNAL"
    reference = INTERNAL.fullmatch(bad.error)[1]
    assert states(policy.state_dir, *names) == [("refused", "internal"), ("settled", "")]
    output = capfd.readouterr().out
    (fault,) = (line for line in map(json.loads, output.splitlines()) if line["event"] == "internal_fault")
    assert (fault["reference"], fault["error"]) == (reference, type(error).__name__)
    assert SECRET not in output
    assert str(SOURCE_ROOT) not in output


def test_an_engine_response_without_a_tensor_closes_its_row_and_the_others_are_answered(policy):
    broken, other = prepare(policy, request("broken"), request("whole"))
    inputs = engine_outputs(broken, "yes")
    del inputs["output_ids"]
    bad, good = infer(policy.postprocess, InferenceRequest(inputs, POSTPROCESS_NAMES), finished(other, "yes"))
    assert INTERNAL.fullmatch(bad.error)
    assert text_of(good) == "yes"
    assert states(policy.state_dir, "broken", "whole") == [("refused", "internal"), ("settled", "")]


def test_a_request_whose_records_cannot_be_read_is_an_internal_error(policy):
    prepared, other = prepare(policy, request("unreadable"), request("readable"))
    unreadable = finished(prepared, "yes", policy_decision=np.array([[1, 2, 3]], np.uint8))
    bad, good = infer(policy.postprocess, unreadable, finished(other, "yes"))
    assert INTERNAL.fullmatch(bad.error)
    assert text_of(good) == "yes"


def test_a_bug_in_the_ledger_withholds_the_answers(policy, monkeypatch):
    (prepared,) = prepare(policy, request("ledger-bug"))
    with raising(monkeypatch, LedgerWriter, "settle", ZeroDivisionError()):
        (answer,) = infer(policy.postprocess, finished(prepared, SECRET))
    assert INTERNAL.fullmatch(answer.error)
    assert states(policy.state_dir, "ledger-bug") == [("admitted", "")]


def test_an_answer_is_sent_without_metrics(policy, monkeypatch):
    (prepared,) = prepare(policy, request("no-metrics"))
    monkeypatch.setattr(LedgerWriter, "metrics", None)
    assert text_of(infer(policy.postprocess, finished(prepared, "yes"))[0]) == "yes"


def test_overhead_is_counted_per_request_and_tokens_per_row_without_the_canary(policy):
    series = {
        "requests": ("llm_policy_overhead_us_count", (("step", "postprocess"),)),
        "rows": ("llm_time_to_first_token_us_count", ()),
    }
    before = read_metrics(policy.state_dir, series)
    pair, canary = prepare(policy, request("m-1", {"text_input": ["a", "b"]}), request("m-2", **CANARY_HEADERS))
    infer(policy.postprocess, finished(pair, "a", "b"), finished(canary, "c"))
    after = read_metrics(policy.state_dir, series)
    assert {name: after[name] - before[name] for name in series} == {"requests": 1, "rows": 2}


def test_the_rows_of_a_request_that_took_too_long_are_charged_and_its_client_gets_an_error(policy, capfd):
    (prepared,) = prepare(policy, request("late", {"task": "judge"}))
    late = finished(prepared, "an unfinished answer")
    late.set_timeout(2_000)
    capfd.readouterr()
    (answer,) = infer(policy.postprocess, late)
    assert (answer.status, answer.error) == (
        "UNAVAILABLE",
        "deadline_exceeded: the answer took 0.003 s, limit 0.002 s (timeout)",
    )
    (row,) = ledger_rows(policy.state_dir, "late")
    assert (row["state"], row["code"], row["flags"]) == ("cancelled", "deadline_exceeded", "")
    assert row["num_completion_tokens"] > 0
    (line,) = log_lines(capfd.readouterr().out)
    assert (line["outcome"], line["code"]) == ("cancelled", "deadline_exceeded")
    assert line["cost_nano_usd"] == row["actual_nano_usd"] > 0
