"""Performs the journal's changes on a service: the running one, or one started only to check the release.

The process that performs a change holds the lock of the state directory, so there is never a second one. Before the
journal has the step `stop`, nothing has been changed: if the step can't be written, the service continues as it is and
the change waits. After it, a step that can't be written stops nothing, because what the journal has is enough to
resolve the change after a crash; the change's end is written as soon as possible.

A change interrupted by a crash is resolved before a service starts: a promotion that was not yet healthy is undone, a
rollback is continued. A change that can't be resolved ends as failed, so that it does not block the next command.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llm_policy.release.release import Release, ReleaseError
from llmstack.release.build_manifest import check_published
from llmstack.release.change import (
    DRAIN,
    PROMOTION,
    READINESS_OFF,
    RECOVERING,
    REFUSED,
    REQUESTED,
    ROLLBACK,
    STOP,
    SWITCH,
    UNDOING,
    UNDONE,
    Change,
    ReleaseRef,
)
from llmstack.release.change_record import ChangeRecord
from llmstack.release.journal import ReleaseJournal
from llmstack.release.store import check_switchable, link_path, point_link
from llmstack.server.error import ServerStartError
from llmstack.supervision.interruption import Preempted
from llmstack.supervision.startup import READINESS_ON

T = TypeVar("T")


class SwitchableService(Protocol):
    """What a switch needs of a service. Every call comes from the thread that owns the server."""

    def mark_unready(self, why: str) -> None:
        """Report on /readyz that requests should go elsewhere."""

    def drain_requests(self) -> None:
        """Reject new requests and wait until those in flight are answered."""

    def resume(self) -> None:
        """Accept requests again: the server is not stopped after all."""

    def stop_server(self) -> None:
        """Stop the server."""

    def set_release(self, release: Release) -> None:
        """Serve this release from the next start on."""

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Run long `work` that needs no server; raises Preempted when another change needs the thread."""

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        """Start the server and check its health; raises ServerStartError, or Preempted as above."""

    def recover(self, outage: str) -> bool:
        """Keep trying to bring the server up; False when another change needs the thread, or on a stop."""


class Switch:
    """Performs the changes of `journal` to the release behind `link`; `log` gets a line when a change ends."""

    def __init__(self, journal: ReleaseJournal, link: Path, log: Any, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.journal, self.link = journal, link_path(link)
        self.record = ChangeRecord(journal, log, now_ns)

    def resolve_interrupted(self) -> Change | None:
        """Decide how an interrupted change continues, and point the link accordingly.

        Returns the change if its release has to be started and checked: call `complete_interrupted` when it is healthy,
        else `fail_interrupted`. Returns None if no change was open, or if it has ended here.

        Raises:
            sqlite3.Error: the journal can't be read.
        """
        change = self.journal.open_change()
        if change is None:
            return None
        if change.kind == PROMOTION and change.step == REQUESTED:
            self.record.reject(change, UNDONE, "no service performed it")
            return None
        interruption = f"interrupted at the step {change.step}"
        if _must_undo(change):
            detail = change.detail if change.step in (UNDOING, RECOVERING) else interruption
            self.record.try_advance(change, UNDOING, detail)
            change = change._replace(step=UNDOING, detail=detail)
        return self._point_link_of_interrupted(change, interruption)

    def complete_interrupted(self, change: Change) -> None:
        """Close the change that `resolve_interrupted` returned: its release is healthy."""
        if change.step == UNDOING:
            self.record.undo(change, change.detail)
        else:
            self.record.complete(change)

    def fail_interrupted(self, change: Change, cause: str) -> None:
        """Close the change that `resolve_interrupted` returned: its release can't be brought up.

        A promotion that can still be undone stays open; the next `resolve_interrupted` returns to its source.
        """
        if change.kind == PROMOTION and change.step != UNDOING:
            self.record.try_advance(change, UNDOING, cause)
            self.record.current_id = None
        else:
            self.record.fail(change, f"{change.detail}; {cause}" if change.detail else cause)

    def has_pending_change(self) -> bool:
        """Whether a change waits to be performed; False, too, while the journal can't be written."""
        return self.record.next_change() is not None

    def perform_pending(self, service: SwitchableService) -> None:
        """Perform the open change, if there is one, on a running service.

        Raises:
            StopRequested: the process was asked to stop; the next `resolve_interrupted` resolves the change.
        """
        try:
            change = self.journal.open_change()
            if change is not None:
                self.record.current_id = change.id
                self._perform(service, change)
        except Preempted:  # another change has superseded this one, and is performed next
            self.record.current_id = None
        except (sqlite3.Error, OSError) as error:  # the server was not stopped; the change is tried again
            self.record.current_id = None
            self.record.log_error(error)

    def perform_offline(self, service: SwitchableService, change: Change) -> None:
        """Perform `change` on a service that has not started yet and runs only to check the release.

        Raises:
            sqlite3.Error: the journal can't be written; nothing has changed.
            StopRequested: the process was asked to stop.
        """
        self.record.current_id = change.id
        with contextlib.suppress(Preempted):  # another change has superseded this one; its command performs it
            for step in (READINESS_OFF, DRAIN, STOP, SWITCH):  # no server runs, so only the journal has them
                self.record.advance(change, step)
            try:
                target = Release.open(change.target.directory)
                point_link(self.link, target.directory)
                self._bring_up_target(service, change, target)
            except (ServerStartError, ReleaseError, OSError) as error:
                self._fail_offline(service, change, str(error))

    def _perform(self, service: SwitchableService, change: Change) -> None:
        try:
            target = service.run_interruptibly(lambda: self._open_target(change))
        except (ReleaseError, OSError) as error:
            self.record.reject(change, REFUSED, str(error))
            return
        self._drain(service, change)
        service.stop_server()
        self.record.try_advance(change, SWITCH)
        try:
            point_link(self.link, target.directory)
        except OSError as error:
            self.record.fail(change, f"{self.link} can't be switched: {error}")
            service.recover(
                f"the {change.kind} failed and the release before it stays: {self.link} can't be switched: {error}"
            )
            return
        try:
            self._bring_up_target(service, change, target)
        except ServerStartError as error:
            self._handle_failed_start(service, change, str(error))

    def _drain(self, service: SwitchableService, change: Change) -> None:
        """The steps before the server is stopped; after an error the service continues as it was."""
        try:
            self.record.advance(change, READINESS_OFF)
            service.mark_unready(f"{change.kind} of {change.target.name}")
            self.record.advance(change, DRAIN)
            service.drain_requests()
            self.record.advance(change, STOP)
        except (sqlite3.Error, OSError):
            service.resume()
            raise

    def _bring_up_target(self, service: SwitchableService, change: Change, target: Release) -> None:
        service.set_release(target)
        service.bring_up(lambda phase: self.record.try_advance(change, phase), change.start_timeout_s)
        self.record.complete(change)

    def _handle_failed_start(self, service: SwitchableService, change: Change, cause: str) -> None:
        if change.kind == PROMOTION:
            self._undo(service, change, cause)
            return
        self.record.try_advance(change, RECOVERING, cause)
        if service.recover(f"the rollback's target does not start: {cause}"):
            self.record.complete(change)

    def _undo(self, service: SwitchableService, change: Change, cause: str) -> None:
        """Return from a failed promotion to its source."""
        self.record.try_advance(change, UNDOING, cause)
        name = change.source.name
        try:
            source = Release.open(change.source.directory)
            service.stop_server()
            point_link(self.link, source.directory)
        except (ReleaseError, OSError) as error:  # no usable source
            self.record.fail(change, f"{cause}; and back to {name}: {error}")
            service.recover(f"{change.target.name} does not start, and {name} can't be served: {error}")
            return
        service.set_release(source)
        try:
            service.bring_up(lambda phase: None, None)
        except ServerStartError as error:
            self.record.try_advance(change, RECOVERING, f"{cause}; and back in {name}: {error}")
            if not service.recover(f"{name} does not start again: {error}"):
                return
        self.record.undo(change, cause)

    def _fail_offline(self, service: SwitchableService, change: Change, cause: str) -> None:
        service.stop_server()
        if change.kind == ROLLBACK:
            self.record.fail(change, cause)
            return
        self.record.try_advance(change, UNDOING, cause)
        try:
            point_link(self.link, change.source.path)
        except OSError as error:
            self.record.fail(change, f"{cause}; and back to {change.source.name}: {error}")
        else:
            self.record.undo(change, cause)

    def _point_link_of_interrupted(self, change: Change, interruption: str) -> Change | None:
        """Point the link of an interrupted change to where the change shall end; the change unless it ends here."""
        wanted = change.source if change.step == UNDOING else change.target
        try:
            point_link(Path(change.link), wanted.path)
        except OSError as error:
            reason = f"{change.link} can't lead to {wanted.name or 'nothing'}: {error}"
            self.record.fail(change, f"{interruption}; {reason}")
        else:
            if change.link != str(self.link):
                reason = f"{change.link} leads to {wanted.name}, whose health was not checked again"
                self.record.fail(change, f"{interruption}; {reason}")
            elif not wanted.directory:  # a first promotion: no release was in service before
                self.record.undo(change, change.detail)
            else:
                self.record.current_id = change.id
                return change
        return None

    def _open_target(self, change: Change) -> Release:
        """The target, every file checked, if this service can be switched to it.

        Raises:
            ReleaseError: the service does not serve through the change's link, or the target has changed.
            OSError: the link can't be switched.
        """
        if change.link != str(self.link) or not self.link.is_symlink():
            raise ReleaseError(
                f"the service serves {self.link}, not through the link {change.link}: start it with --release "
                f"{change.link}"
            )
        check_switchable(self.link)
        target = Release.open(change.target.directory).verify_files()
        if ReleaseRef.of(target) != change.target:
            raise ReleaseError(f"{change.target.name} has changed since the request: request the change again")
        if differences := check_published(target.directory):
            raise ReleaseError("\n".join(differences))
        return target


def _must_undo(change: Change) -> bool:
    """Whether an interrupted change returns to its source.

    A promotion at its last step was healthy and continues, and so does a rollback at any step.
    """
    return change.kind == PROMOTION and change.step != READINESS_ON
