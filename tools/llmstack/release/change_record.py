"""Writes down how the changes go, also where the journal can't be written for a while."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from llmstack.release import change_events as events
from llmstack.release import journal as steps
from llmstack.release.journal import Change, ChangeResult, ReleaseJournal
from llmstack.supervision.preemption import Preempted


class ChangeRecord:
    """The record in `journal` of what one process does; `log` gets a line with every end.

    `in_hand` is the change that the process is at.
    """

    def __init__(self, journal: ReleaseJournal, log: Any, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.in_hand: int | None = None
        self._journal, self._log, self._now_ns = journal, log, now_ns
        self._unwritten: ChangeResult | None = None
        self._told_fault = ""

    def next_change(self) -> Change | None:
        """The open change, unless it is in hand already. One that can't be journalled is none yet."""
        try:
            self.flush()
            change = self._journal.open_change()
            if change is None or change.id == self.in_hand:
                return None
            return change if self._journal.advance(change, change.step, self._now_ns()) else None
        except sqlite3.Error as error:
            self.tell_fault(error)
            return None

    def advance(self, change: Change, step: str, detail: str | None = None) -> None:
        """From now on `step` may have been done.

        Raises:
            sqlite3.Error: it can't be written, so it must not be done.
            Preempted: another change has taken this one's place.
        """
        if not self._journal.advance(change, step, self._now_ns(), detail):
            raise Preempted

    def note(self, change: Change, step: str, detail: str | None = None) -> None:
        """The same of a step that may be missing in the journal: what is there settles the change alike."""
        try:
            self.advance(change, step, detail)
        except sqlite3.Error as error:
            self.tell_fault(error)

    def complete(self, change: Change) -> None:
        """The change's target is in service."""
        make = events.promoted if change.kind == steps.PROMOTION else events.rolled_back
        self._end(ChangeResult(change, steps.COMPLETED, event=make(change, self._now_ns())))

    def undone(self, change: Change, cause: str) -> None:
        """A promotion was taken back, and its source is in service."""
        self._end(ChangeResult(change, steps.UNDONE, cause, events.undone(change, cause, self._now_ns())))

    def failed(self, change: Change, cause: str) -> None:
        """Nothing that the change could end with is proven."""
        self._end(ChangeResult(change, steps.FAILED, cause, events.failed(change, cause, self._now_ns())))

    def refused(self, change: Change, outcome: str, why: str) -> None:
        """The change ends before anything was stopped."""
        self._end(ChangeResult(change, outcome, why))

    def flush(self) -> None:
        """Write the end that could not be written before.

        Raises:
            sqlite3.Error: it still can't be.
        """
        if self._unwritten is None:
            return
        now_ns = self._now_ns()
        if self._journal.end(self._unwritten, now_ns):
            self._tell_end(self._unwritten, now_ns)
        self._unwritten = self.in_hand = None
        self._told_fault = ""

    def tell_fault(self, error: Exception) -> None:
        """What keeps a change from going on is said once, however often it is tried."""
        if str(error) != self._told_fault:
            self._told_fault = str(error)
            self._log.error("release_change_waits", error=self._told_fault, next_step="make room; it is tried again")

    def _end(self, ending: ChangeResult) -> None:
        """Close a change: now, or as soon as the journal can be written."""
        self._unwritten = ending
        try:
            self.flush()
        except sqlite3.Error as error:
            self.tell_fault(error)

    def _tell_end(self, ending: ChangeResult, now_ns: int) -> None:
        change = ending.change
        goes_back = change.kind == steps.ROLLBACK or ending.outcome == steps.UNDONE
        root_cause = change.reason if change.kind == steps.ROLLBACK else ending.detail
        self._log.info(
            ending.event.type if ending.event else "release_change",
            change_id=change.id,
            kind=change.kind,
            outcome=ending.outcome,
            source=change.source.name,
            target=change.target.name,
            reason=change.reason,
            detail=ending.detail,
            operator=change.approval.operator,
            duration_s=round((now_ns - change.requested_ns) / 1e9, 3),
            **({"root_cause": root_cause} if goes_back else {}),
        )
