"""A switch on real files and a real journal, with a service that only remembers: what a crash leaves is all on disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_policy.release.release import Release
from llmstack.events.attempt_log import json_log
from llmstack.release.journal import STEPS, Change, ChangeResult, ReleaseJournal, ReleaseRef
from llmstack.release.switch import Switch
from llmstack.server.error import ServerStartError
from llmstack.supervision.phases import PHASES


class RememberingService:
    """Comes up unless its release is among `broken`; then `recovers` says whether it does later."""

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
        self.calls.append("halt")

    def set_release(self, release: Release) -> None:
        self.served = release.directory.name
        self.calls.append(f"adopt {self.served}")

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        for phase in PHASES[:-1]:
            on_phase(phase)
        if self.served in self.broken:
            raise ServerStartError(f"{self.served} is broken", "mend it")
        on_phase(PHASES[-1])
        self.calls.append(f"up {self.served}")

    def recover(self, outage: str) -> bool:
        self.calls.append("recover")
        return self.recovers


class KillingJournal(ReleaseJournal):
    """Ends its process as kill -9 does, right after a step was written."""

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

    def end(self, ending: ChangeResult, now_ns: int) -> bool:
        if self.full_at:
            raise sqlite3.OperationalError("database or disk is full")
        return super().end(ending, now_ns)


def make_switch(directory: Path, journal: ReleaseJournal | None = None) -> Switch:
    log = json_log((directory / "log").open("a"))
    return Switch(journal or ReleaseJournal(directory / "state"), directory / "artifacts" / "current", log)


def request(switch: Switch, kind: str, source: Path, target: Path, now_ns: int = 0) -> Change:
    sides = (ReleaseRef.of(Release.open(source)), ReleaseRef.of(Release.open(target)))
    return switch.journal.request(kind, switch.link, *sides, now_ns, reason="because")


def main(directory: str, last_step: str, broken: str) -> None:
    """Take up the open change and be killed at `last_step`."""
    switch = make_switch(Path(directory), KillingJournal(Path(directory) / "state", last_step))
    switch.take_up(RememberingService((broken,)))


if __name__ == "__main__":
    main(*sys.argv[1:])
