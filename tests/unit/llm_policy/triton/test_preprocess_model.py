"""preprocess in the stub: every request gets one response, and every row is in the ledger before it."""

import json
import re
import sqlite3
import threading
import time
from contextlib import closing

import numpy as np
import psutil
import pytest

from llm_policy.errors import Code, Unavailable
from llm_policy.guidance.compile.compile_queue import GuideCompiler
from llm_policy.guidance.compile.worker_pool import MAX_STARTING
from llm_policy.ledger.database import open_database
from llm_policy.ledger.ledger import Ledger
from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.steps.ledger_writer import LedgerWriter
from llm_policy.text.tokenizer import Tokenizer
from llmstack.paths import SOURCE_ROOT
from tests import pb_utils
from tests.ledgers import full_disk
from tests.pb_utils import InferenceRequest, execute, infer
from tests.tenants import add_tenant
from tests.unit.llm_policy.triton.policy_models import (
    CANARY_HEADERS,
    PREPROCESS_NAMES,
    TOKENIZER,
    guided,
    ledger_rows,
    log_lines,
    raising,
    read_metrics,
    release_with,
    request,
    states,
)

LEDGER_UNAVAILABLE = ("UNAVAILABLE", "ledger_unavailable")
TIMEOUT_S = 20.0
SECRET = "tulip-marmalade"
INTERNAL = re.compile(r"internal: unexpected error, reference ([0-9a-f]{12})")


class Panic(BaseException):
    """What a native library raises; not an Exception."""


def test_a_request_becomes_the_engines_tensors_and_an_admitted_row(policy):
    (answer,) = infer(policy.preprocess, request("admitted", {"max_tokens": 7, "seed": 5}))
    assert answer.error is None
    outputs = {name: array.tolist() for name, array in answer.outputs.items() if name != "policy_decision"}
    ids = TOKENIZER.encode_text("hello").tolist()
    assert outputs["input_ids"] == [ids]
    assert outputs["input_lengths"] == [[len(ids)]]
    assert (outputs["request_output_len"], outputs["seed"], outputs["end_id"]) == ([[7]], [[5]], [[TOKENIZER.eos_id]])
    (row,) = ledger_rows(policy.state_dir, "admitted")
    assert (row["state"], row["code"], row["tenant"], row["num_prompt_tokens"]) == ("admitted", "", "acme", len(ids))


def test_each_row_of_a_request_has_a_ledger_row(policy):
    texts = ["hello", "an order of two"]
    (answer,) = infer(policy.preprocess, request("two-rows", {"text_input": texts}))
    lengths = [len(TOKENIZER.encode_text(text)) for text in texts]
    assert answer.outputs["input_lengths"].tolist() == [[length] for length in lengths]
    rows = ledger_rows(policy.state_dir, "two-rows")
    assert [(row["row_number"], row["num_prompt_tokens"]) for row in rows] == list(enumerate(lengths))


def test_a_registered_schema_becomes_the_engines_guide(policy):
    (answer,) = infer(policy.preprocess, request("schema", {"schema_id": "verdict"}))
    assert answer.outputs["guided_decoding_guide_type"].shape == (1, 1)
    assert answer.outputs["guided_decoding_guide"][0, 0]
    assert ledger_rows(policy.state_dir, "schema")[0]["schema_id"] == "verdict"


def test_a_rejected_request_gets_its_error_and_the_others_of_the_batch_their_tensors(policy, capfd):
    good, bad, wrong_engine, other = infer(
        policy.preprocess,
        request("good"),
        request("bad", {"text_input": SECRET, "task": "poetry"}),
        request("wrong-engine", **{"X-Quantisation": "fp16"}),
        request("other"),
    )
    assert good.error is None
    assert other.error is None
    assert (bad.status, bad.error.split(":")[0]) == ("INVALID_ARG", "unknown_task")
    assert (wrong_engine.status, wrong_engine.error.split(":")[0]) == ("INVALID_ARG", "quantisation_mismatch")
    assert states(policy.state_dir, "good", "bad", "wrong-engine", "other") == [
        ("admitted", ""),
        ("refused", "unknown_task"),
        ("refused", "quantisation_mismatch"),
        ("admitted", ""),
    ]
    output = capfd.readouterr().out
    assert [(line["request_id"], line["code"]) for line in log_lines(output)] == [
        ("bad", "unknown_task"),
        ("wrong-engine", "quantisation_mismatch"),
    ]
    assert SECRET not in output


def test_an_invalid_row_rejects_its_whole_request(policy):
    (answer,) = infer(policy.preprocess, request("half", {"text_input": ["hello", ""]}))
    assert answer.error == "invalid_input: text_input is empty, at least 1 character is required (row 1)"
    assert states(policy.state_dir, "half") == [("refused", "invalid_input")] * 2


def test_a_header_that_is_not_utf_8_is_invalid(policy):
    parameters = b'{"X-Tenant":"\xff"}'
    inputs = {"text_input": np.array([[b"hello"]], np.object_)}
    (answer,) = infer(policy.preprocess, InferenceRequest(inputs, PREPROCESS_NAMES, "not-utf-8", parameters))
    assert (answer.status, answer.error.split(":")[0]) == ("INVALID_ARG", "invalid_header")
    assert states(policy.state_dir, "not-utf-8") == [("refused", "invalid_header")]


@pytest.mark.parametrize("error", [RuntimeError(SECRET), Panic(SECRET)], ids=["exception", "panic"])
def test_an_unexpected_exception_is_an_internal_error_without_prompt_or_path(policy, monkeypatch, capfd, error):
    request_id = type(error).__name__
    with raising(monkeypatch, Tokenizer, "encode_chat", error):
        chat = {"text_input": None, "messages": json.dumps([{"role": "user", "content": SECRET}])}
        bad, good = infer(policy.preprocess, request(request_id, chat), request("unaffected"))
    assert good.error is None
    assert bad.status == "INTERNAL"
    reference = INTERNAL.fullmatch(bad.error)[1]
    assert states(policy.state_dir, request_id) == [("refused", "internal")]
    output = capfd.readouterr().out
    (fault,) = (line for line in map(json.loads, output.splitlines()) if line["event"] == "internal_fault")
    assert (fault["reference"], fault["error"]) == (reference, type(error).__name__)
    assert SECRET not in output
    assert str(SOURCE_ROOT) not in output


def test_a_request_whose_tensors_cannot_be_read_is_refused_under_its_id(policy, monkeypatch):
    with raising(monkeypatch, pb_utils.Tensor, "as_numpy", RuntimeError("the tensor is on a GPU")):
        execute(policy.preprocess, unreadable := request("unreadable"))
    assert INTERNAL.fullmatch(unreadable.answer().error)
    assert states(policy.state_dir, "unreadable") == [("refused", "internal")]


def test_a_new_guide_is_answered_later_from_the_workers_thread(policy, monkeypatch):
    senders = {}
    send = pb_utils.ResponseSender.send

    def record(sender, response, flags):
        senders[sender.request_id] = threading.current_thread().name
        send(sender, response, flags)

    monkeypatch.setattr(pb_utils.ResponseSender, "send", record)
    waiting, unguided = guided("new-guide", "(yes|no)!"), request("unguided")
    execute(policy.preprocess, waiting, unguided)
    assert unguided.answer().error is None
    answer = waiting.answer()
    assert answer.outputs["guided_decoding_guide"][0, 0]
    assert states(policy.state_dir, "new-guide") == [("admitted", "")]
    assert senders["new-guide"] == "preprocess"
    (again,) = infer(policy.preprocess, guided("same-guide", "(yes|no)!"))
    assert again.outputs["guided_decoding_guide"] == answer.outputs["guided_decoding_guide"]


def test_a_request_waits_for_the_turn_of_its_keys_tenant_once_the_key_is_known(policy):
    with closing(open_database(policy.state_dir / "ledger.db")) as connection:
        key = add_tenant(connection, "keyed")
    admission = policy.preprocess._admission
    arrival = admission.read(request("keyed", **{"X-Tenant": "claims-much", "X-Api-Key": key}))
    assert admission.tenant_of(arrival) == "?"
    infer(policy.preprocess, request("keyed-1", **{"X-Tenant": "keyed", "X-Api-Key": key}))
    assert admission.tenant_of(arrival) == "keyed"
    assert admission.tenant_of(admission.read(request("label", **{"X-Tenant": "a-label"}))) == "a-label"


def test_a_request_that_was_cancelled_while_it_waited_has_no_row(policy, monkeypatch):
    monkeypatch.setattr("llm_policy.triton.arrival._SOON_S", -1.0)
    abandoned, other = request("abandoned"), request("not-abandoned")
    abandoned.cancel()
    gone, answer = infer(policy.preprocess, abandoned, other)
    assert (gone.status, answer.error) == ("CANCELLED", None)
    assert states(policy.state_dir, "abandoned") == []


def test_a_displaced_request_is_overloaded_under_the_name_of_its_sender(policy, monkeypatch):
    monkeypatch.setattr("llm_policy.triton.fair_worker.MAX_WAITING", 0)
    items = [request(f"displaced-{number}") for number in range(5)]  # more than one turn
    answers = infer(policy.preprocess, *items)
    assert {(answer.status, answer.error.split(":")[0]) for answer in answers} == {("UNAVAILABLE", "overloaded")}
    assert {row["tenant"] for row in ledger_rows(policy.state_dir, "displaced-0")} == {"acme"}


def test_requests_with_the_same_new_guide_are_all_answered(policy):
    answers = infer(policy.preprocess, *(guided(f"shared-{number}", "(left|right)?") for number in range(3)))
    assert [answer.error for answer in answers] == [None] * 3


def test_a_guide_that_is_rejected_later_closes_and_logs_the_row(policy, monkeypatch, capfd):
    has_returned = threading.Event()
    submit = GuideCompiler.submit

    def submit_until_returned(compiler, guides, callback, tenant):
        def call_back(error):
            assert has_returned.wait(TIMEOUT_S)
            callback(error)

        submit(compiler, guides, call_back, tenant)

    monkeypatch.setattr(GuideCompiler, "submit", submit_until_returned)
    waiting = guided("bad-guide", "(" + SECRET)
    execute(policy.preprocess, waiting)
    has_returned.set()
    answer = waiting.answer()
    assert (answer.status, answer.error.split(":")[0]) == ("INVALID_ARG", "schema_invalid")
    assert states(policy.state_dir, "bad-guide") == [("refused", "schema_invalid")]
    output = capfd.readouterr().out
    assert [(line["request_id"], line["code"], line["outcome"]) for line in log_lines(output)] == [
        ("bad-guide", "schema_invalid", "refused")
    ]
    assert SECRET not in output


def test_an_exception_after_the_compile_is_an_internal_error(policy, triton, monkeypatch):
    waiting = guided("late-bug", "late[0-9]")
    with raising(monkeypatch, triton.preprocess_model, "build_response", ZeroDivisionError(SECRET)):
        (answer,) = infer(policy.preprocess, waiting)
    assert INTERNAL.fullmatch(answer.error)
    assert states(policy.state_dir, "late-bug") == [("refused", "internal")]


def test_a_request_for_which_the_guide_compiler_has_no_room_closes_its_row(policy, monkeypatch):
    with raising(monkeypatch, GuideCompiler, "submit", Unavailable(Code.GUIDANCE_UNAVAILABLE, "no room")):
        answers = infer(policy.preprocess, guided("no-room", "no room"), request("room"))
    assert (answers[0].status, answers[0].error.split(":")[0]) == ("UNAVAILABLE", "guidance_unavailable")
    assert answers[1].error is None
    assert states(policy.state_dir, "no-room", "room") == [("refused", "guidance_unavailable"), ("admitted", "")]


def test_a_response_that_cannot_be_built_closes_the_row(policy, triton, monkeypatch):
    with raising(monkeypatch, triton.preprocess_model, "build_response", ZeroDivisionError()):
        (answer,) = infer(policy.preprocess, request("unbuilt"))
    assert INTERNAL.fullmatch(answer.error)
    assert states(policy.state_dir, "unbuilt") == [("refused", "internal")]


def test_the_row_is_admitted_before_the_response(policy, monkeypatch):
    seen = []
    deliver = InferenceRequest.deliver

    def record(self, response):
        seen.append(states(policy.state_dir, "before"))
        deliver(self, response)

    monkeypatch.setattr(InferenceRequest, "deliver", record)
    infer(policy.preprocess, request("before"))
    assert seen == [[("admitted", "")]]


def test_a_draining_server_admits_nothing(policy):
    marker = policy.state_dir / "draining"
    marker.touch()
    try:
        answers = infer(policy.preprocess, request("draining"), request("draining"))
    finally:
        marker.unlink()
    assert {(answer.status, answer.error.split(":")[0]) for answer in answers} == {("UNAVAILABLE", "draining")}
    assert states(policy.state_dir, "draining") == [("refused", "draining")] * 2
    assert infer(policy.preprocess, request("reopened"))[0].error is None


def test_requests_beyond_the_queue_limit_are_overloaded_but_the_canary_is_not(start_policy, tmp_path):
    names = [f"load-{number}" for number in range(4)]
    with start_policy(tmp_path, release_with(tmp_path, max_queue_size=1)) as policy:
        answers = infer(policy.preprocess, *map(request, names)) + infer(policy.preprocess, request("load-next"))
        canary = infer(policy.preprocess, request("canary", **CANARY_HEADERS))[0]
    codes = [answer.error.split(":")[0] if answer.error else "" for answer in answers]
    assert codes == ["", "overloaded", "overloaded", "overloaded", "overloaded"]
    assert {answer.status for answer in answers[1:]} == {"UNAVAILABLE"}
    stored = [code for _, code in states(tmp_path, *names, "load-next")]
    assert stored == codes[: 1 + SAMPLE_ROWS]  # the others are only counted
    assert canary.error is None


def test_a_ledger_that_cannot_be_written_rejects_the_batch_until_it_can(own_policy, capfd):
    with full_disk():
        answers = infer(own_policy.preprocess, request("full-1"), request("full-2", {"task": "poetry"}))
    assert [(answer.status, answer.error.split(":")[0]) for answer in answers] == [LEDGER_UNAVAILABLE] * 2
    assert str(own_policy.state_dir) not in answers[0].error
    assert states(own_policy.state_dir, "full-1", "full-2") == []
    lines = log_lines(capfd.readouterr().out)
    assert [(line["request_id"], line["code"], line["ledger_id"]) for line in lines] == [
        ("full-1", "ledger_unavailable", None),
        ("full-2", "ledger_unavailable", None),
    ]
    assert infer(own_policy.preprocess, request("room"))[0].error is None


def test_a_row_that_cannot_be_closed_now_is_closed_later(policy, triton, monkeypatch):
    full = sqlite3.OperationalError("database or disk is full")
    with (
        raising(monkeypatch, triton.preprocess_model, "build_response", ZeroDivisionError()),
        raising(monkeypatch, Ledger, "reject", full),
    ):
        (answer,) = infer(policy.preprocess, request("close-later"))
    assert (answer.status, answer.error.split(":")[0]) == LEDGER_UNAVAILABLE
    assert states(policy.state_dir, "close-later") == [("admitted", "")]
    infer(policy.preprocess, request("next"))
    assert states(policy.state_dir, "close-later")[0][0] == "refused"


def test_a_bug_in_the_admission_check_rejects_the_batch(policy, monkeypatch):
    with raising(monkeypatch, LedgerWriter, "admission_error", ZeroDivisionError()):
        (answer,) = infer(policy.preprocess, request("check"))
    assert INTERNAL.fullmatch(answer.error)


def test_a_request_is_served_without_metrics(policy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LedgerWriter, "metrics", None)
        answers = infer(policy.preprocess, request("no-metrics", {"schema_id": "verdict"}), guided("no-metrics", "x?y"))
    assert [answer.error for answer in answers] == [None, None]


def test_guides_and_overhead_are_counted_and_the_canarys_overhead_is_not(policy):
    series = {
        "hit": ("llm_guide_cache_total", (("result", "hit"),)),
        "miss": ("llm_guide_cache_total", (("result", "miss"),)),
        "compiled": ("llm_guide_compile_ms_count", ()),
        "overhead": ("llm_policy_overhead_us_count", (("step", "preprocess"),)),
    }
    before = read_metrics(policy.state_dir, series)
    infer(policy.preprocess, request("m-1", {"schema_id": "verdict"}), request("m-2", **CANARY_HEADERS))
    infer(policy.preprocess, guided("m-3", "counted|once"))
    after = read_metrics(policy.state_dir, series)
    assert {name: after[name] - before[name] for name in series} == {"hit": 1, "miss": 1, "compiled": 1, "overhead": 2}


def test_the_guide_compiler_learns_the_requests_tenant(policy, monkeypatch):
    tenants = []
    submit = GuideCompiler.submit

    def record(compiler, guides, callback, tenant):
        tenants.append(tenant)
        submit(compiler, guides, callback, tenant)

    monkeypatch.setattr(GuideCompiler, "submit", record)
    infer(policy.preprocess, guided("tenant-1", "tenant[1]"), guided("tenant-2", "tenant[2]", **{"X-Tenant": "other"}))
    assert tenants == ["acme", "other"]


def test_a_compiled_guide_is_logged_once_and_a_rejected_one_is_not(policy, capfd):
    infer(policy.preprocess, guided("log-1", "logged[0-9]"), guided("log-2", "logged[0-9]"), guided("log-3", "log("))
    infer(policy.preprocess, guided("log-4", "logged[0-9]"))
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    (line,) = (line for line in lines if line["event"] == "guide_compiled")
    assert re.fullmatch("sha256:[0-9a-f]{16}", line["schema_id"])
    assert line["backend"] in {"xgrammar", "llguidance"}
    assert line["compile_ms"] > 0
    assert line["mask_ms"] > 0


def test_the_slowest_mask_of_each_compiled_guide_is_counted(policy):
    series = {"masks": ("llm_guide_mask_ms_count", ()), "ms": ("llm_guide_mask_ms_sum", ())}
    before = read_metrics(policy.state_dir, series)
    infer(policy.preprocess, guided("mask-1", "mask[0-9]"), guided("mask-2", "mask("))
    infer(policy.preprocess, guided("mask-3", "mask[0-9]"))
    after = read_metrics(policy.state_dir, series)
    assert after["masks"] - before["masks"] == 1
    assert after["ms"] > before["ms"]


def test_finalize_ends_the_thread_and_the_sandboxes(start_policy, tmp_path):
    threads, children = set(threading.enumerate()), set(psutil.Process().children())
    with start_policy(tmp_path):
        started = set(threading.enumerate()) - threads
        wait_until(lambda: len(set(psutil.Process().children()) - children) >= MAX_STARTING)
    assert started
    assert not any(thread.is_alive() for thread in started)
    assert not set(psutil.Process().children()) - children


def wait_until(condition, timeout_s=TIMEOUT_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
