"""A switch on real files and a real journal, with a service that only remembers: what a crash leaves is all on disk."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from llm_policy.release import Release
from llmstack.events.attempt_log import json_log
from llmstack.release.journal import Change, ReleaseJournal, Side
from llmstack.release.switch import Switch
from llmstack.server_error import ServerStartError
from llmstack.supervision.phases import PHASES


class RememberingService:
    """Comes up unless its release is among `broken`."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.calls: list[str] = []
        self.broken, self.served = broken, ""

    def turn_away(self, why: str) -> None:
        self.calls.append("turn_away")

    def drain_requests(self) -> None:
        self.calls.append("drain_requests")

    def halt(self) -> None:
        self.calls.append("halt")

    def adopt(self, release: Release) -> None:
        self.served = release.directory.name
        self.calls.append(f"adopt {self.served}")

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        for phase in PHASES[:-1]:
            on_phase(phase)
        if self.served in self.broken:
            raise ServerStartError(f"{self.served} is broken", "mend it")
        on_phase(PHASES[-1])
        self.calls.append(f"up {self.served}")

    def recover(self, outage: str) -> None:
        self.calls.append("recover")


class KillingJournal(ReleaseJournal):
    """Ends its process as kill -9 does, right after a step was written."""

    def __init__(self, state_dir: Path, last_step: str) -> None:
        super().__init__(state_dir)
        self._last_step = last_step

    def advance(self, change: Change, step: str, now_ns: int, detail: str | None = None) -> None:
        super().advance(change, step, now_ns, detail)
        if step == self._last_step:
            os.kill(os.getpid(), signal.SIGKILL)


def make_switch(directory: Path, journal: ReleaseJournal | None = None) -> Switch:
    log = json_log((directory / "log").open("a"))
    return Switch(journal or ReleaseJournal(directory / "state"), directory / "artifacts" / "current", log)


def request(switch: Switch, kind: str, source: Path, target: Path, now_ns: int = 0) -> Change:
    sides = (Side.of(Release.open(source)), Side.of(Release.open(target)))
    return switch.journal.request(kind, switch.link, *sides, now_ns, reason="because")


def main(directory: str, last_step: str, broken: str) -> None:
    """Take up the open change and be killed at `last_step`."""
    switch = make_switch(Path(directory), KillingJournal(Path(directory) / "state", last_step))
    switch.take_up(RememberingService((broken,)))


if __name__ == "__main__":
    main(*sys.argv[1:])
