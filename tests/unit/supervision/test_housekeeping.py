"""Periodic work of the parent process, one tick at a time."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmstack.events.delivery_service import DeliveryService
from llmstack.supervision.housekeeping import SLOW_TICKS, Housekeeping
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from llmstack.supervision.readiness import SERVER, CanaryResult, Readiness
from llmstack.supervision.state_directory import StateDirectory
from tests.releases import write_release


class FakeSupervisor:
    """What housekeeping uses of a supervisor, with a healthy server that has answered no request."""

    def __init__(self, release_dir: Path, state_dir: Path) -> None:
        release = write_release(release_dir)
        self.readiness = Readiness(release, "echo")
        self.server: Any = SimpleNamespace(log_path=state_dir / "tritonserver.log")
        self.live_boot_id = ""
        self.reports: list[str] = []
        self.manifest = release.manifest

    def statistics(self) -> None:
        return None

    def report(self, line: str) -> None:
        self.reports.append(line)


@pytest.fixture
def supervisor(tmp_path: Path) -> FakeSupervisor:
    (tmp_path / "state").mkdir()
    return FakeSupervisor(tmp_path / "release", tmp_path / "state")


@pytest.fixture
def housekeeping(tmp_path: Path, supervisor: Any) -> Iterator[Housekeeping]:
    with StateDirectory(tmp_path / "state") as state:
        ledger = LedgerMaintenance(state.path, supervisor.manifest)
        yield Housekeeping(supervisor, state, ledger, DeliveryService(state.path, []), max_log_bytes=8)


def reasons(supervisor: FakeSupervisor) -> list[str]:
    """The reasons on /readyz that are not about the server or a thread that this test does not run."""
    supervisor.readiness.set_canary(CanaryResult(True, 1.0, at_s=0.0), is_serving=True)
    supervisor.readiness.set_problem(SERVER, "")
    parts = ("ledger:", "state directory:", "delivery:", "log:", "housekeeping:")
    return [reason for reason in supervisor.readiness.document()["reasons"] if reason.startswith(parts)]


def test_a_deleted_log_is_no_problem(housekeeping, supervisor):
    supervisor.server.log_path.write_text("a line\n")
    housekeeping.tick(0)
    supervisor.server.log_path.unlink()
    housekeeping.tick(SLOW_TICKS)
    assert (reasons(supervisor), supervisor.reports) == ([], [])


def test_a_log_that_cannot_be_rotated_is_reported_once_and_is_no_reason_to_be_unready(housekeeping, supervisor):
    supervisor.server.log_path.mkdir()
    (supervisor.server.log_path / "file").write_text("a directory can't be truncated")
    for number in range(2 * SLOW_TICKS):
        housekeeping.tick(number)
    assert reasons(supervisor) == []
    assert [line.split(":")[0] for line in supervisor.reports] == ["the server's log can't be rotated"]


def test_the_engines_log_is_rotated_too(housekeeping, supervisor):
    log = supervisor.server.log_path.with_name("engine.log")
    log.write_text("more than eight bytes\n")
    housekeeping.tick(0)
    assert (log.stat().st_size, log.with_name("engine.log.1").read_text()) == (0, "more than eight bytes\n")


def test_a_ledger_near_its_budget_is_reported_once_and_leaves_the_service_ready(tmp_path, supervisor):
    with StateDirectory(tmp_path / "state") as state:
        ledger = LedgerMaintenance(state.path, supervisor.manifest)
        housekeeping = Housekeeping(
            supervisor, state, ledger, DeliveryService(state.path, []), max_log_bytes=8, max_ledger_bytes=1
        )
        for number in range(2 * SLOW_TICKS):
            housekeeping.tick(number)
    document = supervisor.readiness.document()
    assert (document["ledger"]["level"], document["ledger"]["max_bytes"]) == ("over", 1)
    assert reasons(supervisor) == []
    assert [line.partition(":")[0] for line in supervisor.reports] == ["the ledger is over its size budget of 0 MiB"]


def test_a_budget_that_cannot_be_kept_is_reported_once_and_is_no_reason_to_be_unready(
    housekeeping, supervisor, monkeypatch
):
    def fail(*arguments):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(LedgerMaintenance, "keep_budget", fail)
    for number in range(2 * SLOW_TICKS):
        housekeeping.tick(number)
    assert reasons(supervisor) == []
    assert supervisor.reports == ["the ledger's size budget can't be kept: database is locked"]


def test_a_task_that_fails_makes_the_service_unready_until_it_succeeds(housekeeping, supervisor, tmp_path):
    ledger, moved = tmp_path / "state" / "ledger.db", tmp_path / "state" / "moved.db"
    ledger.rename(moved)
    housekeeping.tick(0)
    assert any(reason.startswith("ledger: ledger.db was moved") for reason in reasons(supervisor))
    moved.rename(ledger)
    housekeeping.tick(SLOW_TICKS)
    assert reasons(supervisor) == []
