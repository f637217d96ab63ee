"""A switch on real files and a real journal, with a service that only records its calls.

Run as a program, it is a process that is killed in the middle of a change: all that is left is on disk.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from llm_policy.release.release import Release
from llmstack.events.json_log import json_log
from llmstack.release.change import PROMOTION, REQUESTED, STEPS, Change, ChangeRequest, ChangeResult, ReleaseRef
from llmstack.release.change_request import superseded_by
from llmstack.release.journal import ReleaseJournal
from llmstack.release.store import ReleaseStore
from llmstack.release.switch import Switch
from llmstack.server.error import ServerStartError
from llmstack.supervision.startup import PHASES


class RecordingService:
    """Starts unless its release is among `broken`; `recovers` decides whether a broken one starts later."""

    def __init__(self, broken: tuple[str, ...] = (), recovers: bool = False) -> None:
        self.calls: list[str] = []
        self.broken, self.recovers, self.served = broken, recovers, ""

    def mark_unready(self, why: str) -> None:
        self.calls.append("mark_unready")

    def drain_requests(self) -> None:
        self.calls.append("drain_requests")

    def resume(self) -> None:
        self.calls.append("resume")

    def run_interruptibly(self, work: Callable[[], Any]) -> Any:
        return work()

    def stop_server(self) -> None:
        self.calls.append("stop_server")

    def set_release(self, release: Release) -> None:
        self.served = release.directory.name
        self.calls.append(f"set_release {self.served}")

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        for phase in PHASES[:-1]:
            on_phase(phase)
        if self.served in self.broken:
            raise ServerStartError(f"{self.served} is broken", "repair it")
        on_phase(PHASES[-1])
        self.calls.append(f"bring_up {self.served}")

    def recover(self, outage: str) -> bool:
        self.calls.append("recover")
        return self.recovers


class KillingJournal(ReleaseJournal):
    """Kills its process with SIGKILL right after a step was written."""

    def __init__(self, state_dir: Path, last_step: str) -> None:
        super().__init__(state_dir)
        self._last_step = last_step

    def advance(self, change: Change, step: str, now_ns: int, detail: str | None = None) -> bool:
        is_open = super().advance(change, step, now_ns, detail)
        if step == self._last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return is_open


class FullJournal(ReleaseJournal):
    """Can't be written from the step `full_at` on, until `full_at` is empty again."""

    full_at = ""

    def advance(self, change: Change, step: str, now_ns: int, detail: str | None = None) -> bool:
        if self.full_at and STEPS.index(step) >= STEPS.index(self.full_at):
            raise sqlite3.OperationalError("database or disk is full")
        return super().advance(change, step, now_ns, detail)

    def end(self, result: ChangeResult, now_ns: int) -> bool:
        if self.full_at:
            raise sqlite3.OperationalError("database or disk is full")
        return super().end(result, now_ns)


def make_switch(directory: Path, journal: ReleaseJournal | None = None) -> Switch:
    log = json_log((directory / "log").open("a"))
    return Switch(journal or ReleaseJournal(directory / "state"), directory / "artifacts" / "current", log)


def open_change(
    switch: Switch, store: ReleaseStore, kind: str = PROMOTION, source: str = "old", target: str = "new"
) -> Change:
    """Request a change, as `request_change` does; all times are 0."""
    from_release, to_release = (ReleaseRef.of(Release.open(store.releases_dir / name)) for name in (source, target))
    request = ChangeRequest(kind, switch.link, from_release, to_release, reason="because")
    in_progress = switch.journal.open_change()
    superseded = superseded_by(kind, request.reason, in_progress, 0) if in_progress else None
    return switch.journal.request(request, 0, superseded=superseded)


def events(directory: Path) -> list[dict[str, Any]]:
    """The events in the ledger, each of which waits for its delivery."""
    with closing(sqlite3.connect(directory / "state" / "ledger.db")) as connection:
        rows = connection.execute("SELECT body FROM event ORDER BY sequence").fetchall()
        num_waiting = connection.execute("SELECT count(*) FROM delivery WHERE endpoint = 'readiness'").fetchone()[0]
    assert num_waiting == len(rows)
    return [json.loads(body) for (body,) in rows]


def kill(directory: Path, step: str, broken: str) -> None:
    """A process performs the open change and is killed right after `step` is written."""
    if step == REQUESTED:
        return
    command = [sys.executable, "-m", "tests.unit.release.recording_service", str(directory), step, broken]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def main(directory: str, last_step: str, broken: str) -> None:
    """Perform the open change until the process is killed at `last_step`."""
    switch = make_switch(Path(directory), KillingJournal(Path(directory) / "state", last_step))
    switch.perform_pending(RecordingService((broken,)))


if __name__ == "__main__":
    main(*sys.argv[1:])
