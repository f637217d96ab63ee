"""The documents of /readyz and /livez."""

import json
from pathlib import Path

import pytest

from llmstack.events.backlog import Backlog
from llmstack.supervision.ledger_maintenance import WindowStatistics
from llmstack.supervision.readiness import (
    LEDGER,
    MAX_HEALTH_AGE_S,
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
    return Readiness(write_release(tmp_path / "release"), "echo", clock, unix_time_s=clock)


def mark_healthy(readiness: Readiness, clock: Clock) -> None:
    readiness.set_canary(CanaryResult(True, 12.5, at_s=clock.now_s), is_serving=True)
    readiness.set_problem(SERVER, "")


def test_a_new_service_is_not_ready(readiness):
    assert readiness.readyz().status == 503
    assert readiness.document()["reasons"] == ["server: the server starts"]


def test_a_server_without_a_health_check_is_not_ready(readiness):
    readiness.set_problem(SERVER, "")
    assert readiness.document()["reasons"] == ["canary: no successful health check yet"]


def test_a_healthy_server_is_ready(readiness, clock):
    mark_healthy(readiness, clock)
    assert readiness.is_ready
    page = readiness.readyz()
    assert page.status == 200
    document = json.loads(page.body)
    assert (document["ready"], document["reasons"]) == (True, [])
    assert document["canary"] == {"ok": True, "age_s": 0.0, "latency_ms": 12.5, "error": None}


def test_a_health_check_expires(readiness, clock):
    mark_healthy(readiness, clock)
    clock.now_s += MAX_HEALTH_AGE_S
    assert readiness.is_ready
    clock.now_s += 1
    readiness.set_canary(CanaryResult(False, 10_000.0, "no answer in time", clock.now_s), is_serving=False)
    assert readiness.document()["reasons"] == [
        f"canary: no successful health check for {MAX_HEALTH_AGE_S + 1:.0f} s: no answer in time"
    ]


def test_a_failed_canary_leaves_the_service_ready_while_clients_are_served(readiness, clock):
    mark_healthy(readiness, clock)
    clock.now_s += MAX_HEALTH_AGE_S
    readiness.set_canary(CanaryResult(False, 10_000.0, "no answer in time", clock.now_s), is_serving=True)
    clock.now_s += MAX_HEALTH_AGE_S
    assert readiness.is_ready
    assert readiness.document()["canary"]["ok"] is False


def test_each_part_sets_and_clears_its_own_reason(readiness, clock):
    mark_healthy(readiness, clock)
    readiness.set_problem(LEDGER, "disk I/O error")
    readiness.set_problem(SERVER, "tritonserver ended by itself")
    assert readiness.document()["reasons"] == ["ledger: disk I/O error", "server: tritonserver ended by itself"]
    readiness.set_problem(SERVER, "")
    assert not readiness.is_ready
    readiness.set_problem(LEDGER, "")
    assert readiness.is_ready


def test_since_is_the_time_of_the_last_change(readiness, clock):
    clock.now_s += 60
    assert readiness.document()["since"] == "1970-01-01T00:01:40.000+00:00"
    mark_healthy(readiness, clock)
    clock.now_s += 1
    assert readiness.document()["since"] == "1970-01-01T00:02:40.000+00:00"


def test_a_thread_that_stops_sending_pulses_is_not_alive(readiness, clock):
    mark_healthy(readiness, clock)
    readiness.pulse("housekeeping")
    assert readiness.livez().status == 200
    clock.now_s += MAX_PULSE_AGE_S + 1
    mark_healthy(readiness, clock)
    assert readiness.livez().status == 503
    reason = f"housekeeping: no sign of life for {MAX_PULSE_AGE_S + 1:.0f} s"
    assert json.loads(readiness.livez().body) == {"alive": False, "reasons": [reason]}
    assert readiness.document()["reasons"] == [reason]


def test_a_restart_of_the_server_leaves_the_parent_alive(readiness, clock):
    readiness.pulse("supervisor")
    readiness.set_problem(SERVER, "the process of preprocess_0_0 died")
    readiness.count_restart()
    assert readiness.livez().status == 200
    assert readiness.document()["restarts"] == 1


def test_the_document_names_the_release(readiness):
    document = readiness.document()
    assert document["engine"] == "echo"
    assert document["quantisation"] == "w4a8"
    assert all(document[name].startswith("sha256:") for name in ("engine_hash", "manifest_hash", "tokenizer_info_hash"))


def test_only_configured_webhooks_are_shown(readiness):
    waiting = Backlog("readiness", True, "410 Gone", 3, 12.0, "HTTP 410", 5)
    readiness.set_statistics(
        WindowStatistics(1_234.0, {"cost": 2}), [waiting, Backlog("finance", False, "", 9, 1.0, "")]
    )
    document = readiness.document()
    assert document["delivery_backlog"] == {"readiness": 3}
    assert document["delivery_failed"] == {"readiness": 5}
    assert document["delivery_disabled"] == {"readiness": "410 Gone"}
    assert (document["queue_delay_p95_us"], document["breaches"]) == (1_234.0, {"cost": 2})
