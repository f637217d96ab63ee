"""Performs the journal's changes on a service: the one that runs, or one that is started for the proof.

Whoever performs holds the lock of the state directory, so there is never a second one. What a crash left open is
settled before a service starts: a promotion that was not proven is taken back, a rollback is gone on with.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from llm_policy.release import Release, ReleaseError
from llmstack.release import change_events as events
from llmstack.release import journal as steps
from llmstack.release.journal import Change, ReleaseJournal, Side
from llmstack.release.store import link_path, point_link
from llmstack.server_error import ServerStartError
from llmstack.supervision.phases import READINESS_ON

_NEXT_STEP = "make room in the state directory; what was interrupted is settled at the next start"


class SwitchableService(Protocol):
    """What a switch needs of a service; all calls come from the thread that owns its server."""

    def turn_away(self, why: str) -> None:
        """Say on /readyz that requests had better go elsewhere."""

    def drain_requests(self) -> None:
        """Refuse new requests and answer those under way."""

    def halt(self) -> None:
        """Stop the server."""

    def adopt(self, release: Release) -> None:
        """From now on serve this release."""

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        """Start the server and prove it; ServerStartError when it fails."""

    def recover(self, outage: str) -> None:
        """Go on trying to bring the server up."""


class Switch:
    """The changes of `journal` to what `link` leads to; `log` gets a line with every end."""

    def __init__(self, journal: ReleaseJournal, link: Path, log: Any, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.journal, self.link, self._log, self._now_ns = journal, link_path(link), log, now_ns

    def settle(self) -> Change | None:
        """Point the link to where an interrupted change shall end; the change, for `conclude` once that is proven.

        Raises:
            sqlite3.Error, OSError: the journal or the link can't be written.
        """
        change = self.journal.open_change()
        if change is None or change.link != str(self.link):
            return None
        if change.kind == steps.PROMOTION and change.step == steps.REQUESTED:
            self._end(change, steps.UNDONE, "nobody was there to do it")
            return None
        if _goes_back(change):
            detail = change.detail if change.step == steps.UNDOING else f"interrupted at the step {change.step}"
            self._advance(change, steps.UNDOING, detail)
            point_link(self.link, _path(change.source))
        else:
            point_link(self.link, _path(change.target))
        return self.journal.change(change.id)

    def conclude(self, change: Change) -> None:
        """What `settle` found is proven: close it and tell."""
        if change.step == steps.UNDOING:
            self._end(change, steps.UNDONE, change.detail, events.undone(change, change.detail, self._now_ns()))
        else:
            self._complete(change)

    def give_up(self, change: Change, cause: str) -> None:
        """What `settle` found could not be proven: the next attempt takes an unproven promotion back."""
        if change.kind == steps.PROMOTION and change.step != steps.UNDOING:
            self._advance(change, steps.UNDOING, cause)

    def is_wanted(self) -> bool:
        """Whether a change waits to be performed; a ledger that can't be read is for /readyz to tell."""
        with contextlib.suppress(sqlite3.Error):
            return self.journal.open_change() is not None
        return False

    def take_up(self, service: SwitchableService) -> None:
        """Perform the open change, if there is one, on a running service.

        Raises:
            StopRequested: somebody asked to stop meanwhile; `settle` goes on from there.
            ServerStartError: the journal can't be written, so nothing may be changed.
        """
        try:
            change = self.journal.open_change()
            if change is not None:
                self._take_up(service, change)
        except sqlite3.Error as error:
            raise ServerStartError(f"the journal of releases can't be written: {error}", _NEXT_STEP) from None

    def _take_up(self, service: SwitchableService, change: Change) -> None:
        try:
            target = self._open_target(change)
        except (ReleaseError, OSError) as error:
            self._end(change, steps.REFUSED, str(error))
            return
        self._perform(service, change, target)

    def perform_alone(self, service: SwitchableService, change: Change) -> bool:
        """Perform `change` on a service that doesn't run yet and shall not stay; whether its target is in service.

        Raises:
            StopRequested: somebody asked to stop meanwhile.
        """
        for step in (steps.READINESS_OFF, steps.DRAIN, steps.STOP):  # nothing runs
            self._advance(change, step)
        try:
            self._switch(service, change, Release.open(change.target.directory))
        except (ServerStartError, ReleaseError, OSError) as error:
            self._fail_alone(service, change, str(error))
            return False
        return True

    def _perform(self, service: SwitchableService, change: Change, target: Release) -> None:
        self._advance(change, steps.READINESS_OFF)
        service.turn_away(f"{change.kind} of {change.target.name}")
        self._advance(change, steps.DRAIN)
        service.drain_requests()
        self._advance(change, steps.STOP)
        service.halt()
        try:
            self._switch(service, change, target)
        except (ServerStartError, OSError) as error:
            self._fail(service, change, str(error))

    def _switch(self, service: SwitchableService, change: Change, target: Release) -> None:
        self._advance(change, steps.SWITCH)
        point_link(self.link, target.directory)
        service.adopt(target)
        service.bring_up(lambda phase: self._advance(change, phase), change.start_timeout_s)
        self._complete(change)

    def _fail(self, service: SwitchableService, change: Change, cause: str) -> None:
        if change.kind == steps.ROLLBACK:
            self._end(change, steps.FAILED, cause)
            service.recover(f"the rollback's target does not start: {cause}")
            return
        try:
            self._undo(service, change, cause)
        except (ServerStartError, ReleaseError, OSError) as error:
            self._end(change, steps.FAILED, f"{cause}; and back in {change.source.name}: {error}")
            service.recover(f"{change.source.name} does not start again: {error}")

    def _undo(self, service: SwitchableService, change: Change, cause: str) -> None:
        self._advance(change, steps.UNDOING, cause)
        service.halt()
        point_link(self.link, _path(change.source))
        service.adopt(Release.open(change.source.directory))
        service.bring_up(lambda phase: None, None)
        self._end(change, steps.UNDONE, cause, events.undone(change, cause, self._now_ns()))

    def _fail_alone(self, service: SwitchableService, change: Change, cause: str) -> None:
        service.halt()
        if change.kind == steps.ROLLBACK:
            self._end(change, steps.FAILED, cause)
            return
        self._advance(change, steps.UNDOING, cause)
        point_link(self.link, _path(change.source))
        self._end(change, steps.UNDONE, cause, events.undone(change, cause, self._now_ns()))

    def _open_target(self, change: Change) -> Release:
        """The target, its files proven, if this service can be switched to it at all."""
        if change.link != str(self.link) or not self.link.is_symlink():
            raise ReleaseError(
                f"the service serves {self.link}, not through the link {change.link}: start it with --release "
                f"{change.link}"
            )
        target = Release.open(change.target.directory).verify_files()
        if Side.of(target) != change.target:
            raise ReleaseError(f"{change.target.name} has changed since: ask again")
        return target

    def _complete(self, change: Change) -> None:
        make = events.promoted if change.kind == steps.PROMOTION else events.rolled_back
        self._end(change, steps.COMPLETED, event=make(change, self._now_ns()))

    def _advance(self, change: Change, step: str, detail: str | None = None) -> None:
        self.journal.advance(change, step, self._now_ns(), detail)

    def _end(self, change: Change, outcome: str, detail: str = "", event: Any = None) -> None:
        self.journal.end(change, outcome, self._now_ns(), detail, event)
        self._log.info(
            event.type if event else "release_change",
            change_id=change.id,
            kind=change.kind,
            outcome=outcome,
            source=change.source.name,
            target=change.target.name,
            reason=change.reason,
            detail=detail,
        )


def _goes_back(change: Change) -> bool:
    """A promotion was proven when it came to its last step; a rollback is wanted whatever happens."""
    return change.kind == steps.PROMOTION and change.step != READINESS_ON


def _path(side: Side) -> Path | None:
    return Path(side.directory) if side.directory else None
