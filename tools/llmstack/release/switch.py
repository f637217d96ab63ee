"""Performs the journal's changes on a service: the one that runs, or one that is started for the proof.

Whoever performs holds the lock of the state directory, so there is never a second one. Until the step `stop` is in
the journal nothing has been changed: when it can't be written, the service goes on as it is, and the change waits.
Later the journal says enough to settle the change by, whatever becomes of it: a step that can't be written stops
nothing, and an end is written as soon as it can be.

What a crash left open is settled before a service starts: a promotion that was not proven is taken back, a rollback is
gone on with. What can't be proven then ends as failed, so that the next command finds nothing in its way.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llm_policy.release.release import Release, ReleaseError
from llmstack.release import journal as steps
from llmstack.release.build_manifest import check_published
from llmstack.release.change_record import ChangeRecord
from llmstack.release.journal import Change, ReleaseJournal, ReleaseRef
from llmstack.release.store import check_switchable, link_path, point_link
from llmstack.server.error import ServerStartError
from llmstack.supervision.phases import READINESS_ON
from llmstack.supervision.preemption import Preempted

T = TypeVar("T")


class SwitchableService(Protocol):
    """What a switch needs of a service; all calls come from the thread that owns its server."""

    def mark_unready(self, why: str) -> None:
        """Say on /readyz that requests had better go elsewhere."""

    def drain_requests(self) -> None:
        """Refuse new requests and answer those under way."""

    def resume(self) -> None:
        """Take requests again: the server is not stopped after all."""

    def stop_server(self) -> None:
        """Stop the server."""

    def set_release(self, release: Release) -> None:
        """From now on serve this release."""

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Do long work that needs no server; Preempted when somebody wants the turn meanwhile."""

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        """Start the server and prove it; ServerStartError when it fails, Preempted when somebody wants the turn."""

    def recover(self, outage: str) -> bool:
        """Go on trying to bring the server up; False when somebody wants the turn, or a stop."""


class Switch:
    """The changes of `journal` to what `link` leads to; `log` gets a line with every end."""

    def __init__(self, journal: ReleaseJournal, link: Path, log: Any, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.journal, self.link = journal, link_path(link)
        self.record = ChangeRecord(journal, log, now_ns)

    def settle(self) -> Change | None:
        """Point the link to where an interrupted change shall end; the change, for `conclude` once that is proven.

        None when there is nothing to prove: no change was open, or it has ended here.

        Raises:
            sqlite3.Error: the journal can't be read.
        """
        change = self.journal.open_change()
        if change is None:
            return None
        if change.kind == steps.PROMOTION and change.step == steps.REQUESTED:
            self.record.refused(change, steps.UNDONE, "nobody was there to do it")
            return None
        place = f"interrupted at the step {change.step}"
        if _goes_back(change):
            detail = change.detail if change.step in (steps.UNDOING, steps.RECOVERING) else place
            self.record.note(change, steps.UNDOING, detail)
            change = change._replace(step=steps.UNDOING, detail=detail)
        return self._lead_back(change, place)

    def conclude(self, change: Change) -> None:
        """What `settle` found is proven: close it and tell."""
        if change.step == steps.UNDOING:
            self.record.undone(change, change.detail)
        else:
            self.record.complete(change)

    def give_up(self, change: Change, cause: str) -> None:
        """What `settle` found could not be proven: an end, but for a promotion that can still be taken back."""
        if change.kind == steps.PROMOTION and change.step != steps.UNDOING:
            self.record.note(change, steps.UNDOING, cause)
            self.record.in_hand = None
        else:
            self.record.failed(change, f"{change.detail}; {cause}" if change.detail else cause)

    def is_wanted(self) -> bool:
        """Whether a change waits to be performed; one that can't be journalled does not, yet."""
        return self.record.next_change() is not None

    def take_up(self, service: SwitchableService) -> None:
        """Perform the open change, if there is one, on a running service.

        Raises:
            StopRequested: somebody asked to stop meanwhile; `settle` goes on from there.
        """
        try:
            change = self.journal.open_change()
            if change is not None:
                self.record.in_hand = change.id
                self._take_up(service, change)
        except Preempted:  # another change has taken this one's place: it comes next
            self.record.in_hand = None
        except (sqlite3.Error, OSError) as error:  # nothing was stopped: it is tried again
            self.record.in_hand = None
            self.record.tell_fault(error)

    def perform_alone(self, service: SwitchableService, change: Change) -> None:
        """Perform `change` on a service that doesn't run yet and shall not stay.

        Raises:
            sqlite3.Error: the journal can't be written; nothing has changed.
            StopRequested: somebody asked to stop meanwhile.
        """
        self.record.in_hand = change.id
        with contextlib.suppress(Preempted):  # another change has taken this one's place: its asker performs it
            for step in (steps.READINESS_OFF, steps.DRAIN, steps.STOP, steps.SWITCH):  # nothing runs
                self.record.advance(change, step)
            try:
                target = Release.open(change.target.directory)
                point_link(self.link, target.directory)
                self._prove(service, change, target)
            except (ServerStartError, ReleaseError, OSError) as error:
                self._fail_alone(service, change, str(error))

    def _take_up(self, service: SwitchableService, change: Change) -> None:
        try:
            target = service.run_interruptibly(lambda: self._open_target(change))
        except (ReleaseError, OSError) as error:
            self.record.refused(change, steps.REFUSED, str(error))
            return
        self._clear(service, change)
        service.stop_server()
        self.record.note(change, steps.SWITCH)
        try:
            point_link(self.link, target.directory)
        except OSError as error:
            self.record.failed(change, f"{self.link} can't be switched: {error}")
            service.recover(f"the {change.kind} failed, and all is as before: {self.link} can't be switched: {error}")
            return
        try:
            self._prove(service, change, target)
        except ServerStartError as error:
            self._fail(service, change, str(error))

    def _clear(self, service: SwitchableService, change: Change) -> None:
        """All that comes before the server is stopped; what goes wrong leaves the service as it was."""
        try:
            self.record.advance(change, steps.READINESS_OFF)
            service.mark_unready(f"{change.kind} of {change.target.name}")
            self.record.advance(change, steps.DRAIN)
            service.drain_requests()
            self.record.advance(change, steps.STOP)
        except (sqlite3.Error, OSError):
            service.resume()
            raise

    def _prove(self, service: SwitchableService, change: Change, target: Release) -> None:
        service.set_release(target)
        service.bring_up(lambda phase: self.record.note(change, phase), change.start_timeout_s)
        self.record.complete(change)

    def _fail(self, service: SwitchableService, change: Change, cause: str) -> None:
        if change.kind == steps.PROMOTION:
            self._undo(service, change, cause)
            return
        self.record.note(change, steps.RECOVERING, cause)
        if service.recover(f"the rollback's target does not start: {cause}"):
            self.record.complete(change)

    def _undo(self, service: SwitchableService, change: Change, cause: str) -> None:
        self.record.note(change, steps.UNDOING, cause)
        name = change.source.name
        try:
            source = Release.open(change.source.directory)
            service.stop_server()
            point_link(self.link, source.directory)
        except (ReleaseError, OSError) as error:  # there is nothing to go back to
            self.record.failed(change, f"{cause}; and back to {name}: {error}")
            service.recover(f"{change.target.name} does not start, and {name} can't be served: {error}")
            return
        service.set_release(source)
        try:
            service.bring_up(lambda phase: None, None)
        except ServerStartError as error:
            self.record.note(change, steps.RECOVERING, f"{cause}; and back in {name}: {error}")
            if not service.recover(f"{name} does not start again: {error}"):
                return
        self.record.undone(change, cause)

    def _fail_alone(self, service: SwitchableService, change: Change, cause: str) -> None:
        service.stop_server()
        if change.kind == steps.ROLLBACK:
            self.record.failed(change, cause)
            return
        self.record.note(change, steps.UNDOING, cause)
        try:
            point_link(self.link, _path(change.source))
        except OSError as error:
            self.record.failed(change, f"{cause}; and back to {change.source.name}: {error}")
        else:
            self.record.undone(change, cause)

    def _lead_back(self, change: Change, place: str) -> Change | None:
        """Point the link of an interrupted change, and say what is left to prove."""
        wanted = change.source if change.step == steps.UNDOING else change.target
        try:
            point_link(Path(change.link), _path(wanted))
        except OSError as error:
            self.record.failed(change, f"{place}; {change.link} can't lead to {wanted.name or 'nothing'}: {error}")
        else:
            if change.link != str(self.link):
                self.record.failed(change, f"{place}; {change.link} leads to {wanted.name}, which was not proven again")
            elif not wanted.directory:  # a first promotion: nothing was in service before
                self.record.undone(change, change.detail)
            else:
                self.record.in_hand = change.id
                return change
        return None

    def _open_target(self, change: Change) -> Release:
        """The target, its files proven, if this service can be switched to it at all."""
        if change.link != str(self.link) or not self.link.is_symlink():
            raise ReleaseError(
                f"the service serves {self.link}, not through the link {change.link}: start it with --release "
                f"{change.link}"
            )
        check_switchable(self.link)
        target = Release.open(change.target.directory).verify_files()
        if ReleaseRef.of(target) != change.target:
            raise ReleaseError(f"{change.target.name} has changed since: ask again")
        if findings := check_published(target.directory):
            raise ReleaseError("\n".join(findings))
        return target


def _goes_back(change: Change) -> bool:
    """A promotion was proven when it came to its last step; a rollback is wanted whatever happens."""
    return change.kind == steps.PROMOTION and change.step != READINESS_ON


def _path(side: ReleaseRef) -> Path | None:
    return Path(side.directory) if side.directory else None
