"""Records the progress of a process's changes in the journal, and catches up when the journal can't be written."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from llmstack.release.change import COMPLETED, FAILED, PROMOTION, ROLLBACK, UNDONE, Change, ChangeResult
from llmstack.release.change_events import automatic_rollback_event, failure_event, promotion_event, rollback_event
from llmstack.release.journal import ReleaseJournal
from llmstack.supervision.interruption import Preempted


class ChangeRecord:
    """The changes that one process performs; `log` gets a line when one ends.

    `current_id` is the id of the change that the process performs now.
    """

    def __init__(self, journal: ReleaseJournal, log: Any, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.current_id: int | None = None
        self._journal, self._log, self._now_ns = journal, log, now_ns
        self._unwritten: ChangeResult | None = None
        self._last_logged_error = ""

    def next_change(self) -> Change | None:
        """The open change, unless it is the current one; None, too, while the journal can't be written."""
        try:
            self.flush()
            change = self._journal.open_change()
            if change is None or change.id == self.current_id:
                return None
            return change if self._journal.advance(change, change.step, self._now_ns()) else None
        except sqlite3.Error as error:
            self.log_error(error)
            return None

    def advance(self, change: Change, step: str, detail: str | None = None) -> None:
        """Record that `step` is about to be performed.

        Raises:
            sqlite3.Error: the journal can't be written, so the step must not be performed.
            Preempted: another change has superseded this one.
        """
        if not self._journal.advance(change, step, self._now_ns(), detail):
            raise Preempted

    def try_advance(self, change: Change, step: str, detail: str | None = None) -> None:
        """`advance` for a step that the journal may lack: after a crash the step before it leads to the same end.

        Raises:
            Preempted: another change has superseded this one.
        """
        try:
            self.advance(change, step, detail)
        except sqlite3.Error as error:
            self.log_error(error)

    def complete(self, change: Change) -> None:
        """End a change whose target is in service."""
        make_event = promotion_event if change.kind == PROMOTION else rollback_event
        self._end(ChangeResult(change, COMPLETED, event=make_event(change, self._now_ns())))

    def undo(self, change: Change, cause: str) -> None:
        """End a promotion that failed; its source is in service again."""
        event = automatic_rollback_event(change, cause, self._now_ns())
        self._end(ChangeResult(change, UNDONE, cause, event))

    def fail(self, change: Change, cause: str) -> None:
        """End a change that left neither of its releases healthy."""
        self._end(ChangeResult(change, FAILED, cause, failure_event(change, cause, self._now_ns())))

    def reject(self, change: Change, outcome: str, reason: str) -> None:
        """End a change before anything was stopped; no event reports it."""
        self._end(ChangeResult(change, outcome, reason))

    def flush(self) -> None:
        """Write the result that could not be written before.

        Raises:
            sqlite3.Error: it still can't be written.
        """
        if self._unwritten is None:
            return
        now_ns = self._now_ns()
        if self._journal.end(self._unwritten, now_ns):
            self._log_end(self._unwritten, now_ns)
        self._unwritten = self.current_id = None
        self._last_logged_error = ""

    def log_error(self, error: Exception) -> None:
        """Log what keeps a change waiting, once however often it is retried."""
        if str(error) != self._last_logged_error:
            self._last_logged_error = str(error)
            self._log.error("release_change_waits", error=str(error), next_step="make room; it is tried again")

    def _end(self, result: ChangeResult) -> None:
        """Close a change now, or as soon as the journal can be written."""
        self._unwritten = result
        try:
            self.flush()
        except sqlite3.Error as error:
            self.log_error(error)

    def _log_end(self, result: ChangeResult, now_ns: int) -> None:
        change = result.change
        is_return = change.kind == ROLLBACK or result.outcome == UNDONE
        root_cause = change.reason if change.kind == ROLLBACK else result.detail
        self._log.info(
            result.event.type if result.event else "release_change",
            change_id=change.id,
            kind=change.kind,
            outcome=result.outcome,
            source=change.source.name,
            target=change.target.name,
            reason=change.reason,
            detail=result.detail,
            operator=change.approval.operator,
            duration_s=round((now_ns - change.requested_ns) / 1e9, 3),
            **({"root_cause": root_cause} if is_return else {}),
        )
