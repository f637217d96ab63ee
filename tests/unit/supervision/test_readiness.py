"""What /readyz and /livez say."""

import json
import time
from pathlib import Path

import pytest

from llmstack.events.backlog import Backlog
from llmstack.supervision.ledger_access import WindowFigures
from llmstack.supervision.readiness import (
    LEDGER,
    MAX_PROOF_AGE_S,
    MAX_PULSE_AGE_S,
    SERVER,
    CanaryResult,
    Readiness,
)
from tests.releases import write_release


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def readiness(tmp_path: Path, clock: Clock) -> Readiness:
    return Readiness(write_release(tmp_path / "release"), "echo", clock)


def prove(readiness: Readiness, clock: Clock) -> None:
    readiness.set_canary(CanaryResult(True, 12.5, at_s=clock.now_s), is_proof=True)
    readiness.set_problem(SERVER, "")


def test_nothing_is_ready_at_first(readiness):
    assert readiness.readyz().status == 503
    assert readiness.document()["reasons"] == ["server: the server starts"]


def test_a_server_without_a_proof_is_not_ready(readiness):
    readiness.set_problem(SERVER, "")
    assert readiness.document()["reasons"] == ["canary: no proof yet"]


def test_a_proven_server_is_ready(readiness, clock):
    prove(readiness, clock)
    assert readiness.is_ready
    page = readiness.readyz()
    assert page.status == 200
    document = json.loads(page.body)
    assert (document["ready"], document["reasons"]) == (True, [])
    assert document["canary"] == {"ok": True, "age_s": 0.0, "latency_ms": 12.5, "error": None}


def test_a_proof_grows_old(readiness, clock):
    prove(readiness, clock)
    clock.now_s += MAX_PROOF_AGE_S
    assert readiness.is_ready
    clock.now_s += 1
    readiness.set_canary(CanaryResult(False, 10_000.0, "no answer in time", clock.now_s), is_proof=False)
    assert readiness.document()["reasons"] == [f"canary: no proof for {MAX_PROOF_AGE_S + 1:.0f} s: no answer in time"]


def test_a_failed_canary_takes_nothing_back_while_others_are_served(readiness, clock):
    prove(readiness, clock)
    clock.now_s += MAX_PROOF_AGE_S
    readiness.set_canary(CanaryResult(False, 10_000.0, "no answer in time", clock.now_s), is_proof=True)
    clock.now_s += MAX_PROOF_AGE_S
    assert readiness.is_ready
    assert readiness.document()["canary"]["ok"] is False


def test_each_part_has_its_own_reason_and_takes_it_back_itself(readiness, clock):
    prove(readiness, clock)
    readiness.set_problem(LEDGER, "disk I/O error")
    readiness.set_problem(SERVER, "tritonserver ended by itself")
    assert readiness.document()["reasons"] == ["ledger: disk I/O error", "server: tritonserver ended by itself"]
    readiness.set_problem(SERVER, "")
    assert not readiness.is_ready
    readiness.set_problem(LEDGER, "")
    assert readiness.is_ready


def test_since_says_when_it_changed_last(readiness, clock):
    before = readiness.document()["since"]
    assert readiness.document()["since"] == before
    time.sleep(0.01)  # it has milliseconds
    prove(readiness, clock)
    assert readiness.document()["since"] > before


def test_a_thread_that_turned_once_must_go_on(readiness, clock):
    prove(readiness, clock)
    readiness.pulse("housekeeping")
    assert readiness.livez().status == 200
    clock.now_s += MAX_PULSE_AGE_S + 1
    prove(readiness, clock)
    assert readiness.livez().status == 503
    reason = f"housekeeping: no sign of life for {MAX_PULSE_AGE_S + 1:.0f} s"
    assert json.loads(readiness.livez().body) == {"alive": False, "reasons": [reason]}
    assert readiness.document()["reasons"] == [reason]


def test_a_server_that_is_started_again_is_no_reason_to_kill_the_parent(readiness, clock):
    readiness.pulse("supervisor")
    readiness.set_problem(SERVER, "the process of preprocess_0_0 died")
    readiness.count_restart()
    assert readiness.livez().status == 200
    assert readiness.document()["restarts"] == 1


def test_the_document_names_what_is_served(readiness):
    document = readiness.document()
    assert document["engine"] == "echo"
    assert document["quantisation"] == "w4a8"
    assert all(document[name].startswith("sha256:") for name in ("engine_hash", "manifest_hash", "tokenizer_info_hash"))


def test_only_webhooks_that_are_configured_are_shown(readiness):
    waiting = Backlog("readiness", True, "410 Gone", 3, 12.0, "HTTP 410", 5)
    readiness.set_figures(WindowFigures(1_234.0, {"cost": 2}), [waiting, Backlog("finance", False, "", 9, 1.0, "")])
    document = readiness.document()
    assert document["delivery_backlog"] == {"readiness": 3}
    assert document["delivery_failed"] == {"readiness": 5}
    assert document["delivery_disabled"] == {"readiness": "410 Gone"}
    assert (document["queue_delay_p95_us"], document["breaches"]) == (1_234.0, {"cost": 2})
