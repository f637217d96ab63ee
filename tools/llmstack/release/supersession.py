"""Which open change a new one may put an end to, and how that one then ends."""

from __future__ import annotations

from llmstack.release import change_events as events
from llmstack.release.journal import FAILED, PROMOTION, RECOVERING, ROLLBACK, UNDOING, UNDONE, Change, ChangeResult


def is_taken_back_by_rollback(change: Change) -> bool:
    """Whether a rollback may take the place of this open change: a promotion that nobody takes back yet."""
    return change.kind == PROMOTION and change.step not in (UNDOING, RECOVERING)


def superseded_by(kind: str, reason: str, open_change: Change, now_ns: int) -> ChangeResult | None:
    """How `open_change` ends when a change of this kind is asked for; None when that has to wait.

    What a change falls back on and that does not start may be left by anybody: there is nothing to wait for.
    """
    if open_change.step == RECOVERING:
        cause = f"{open_change.detail}; given up for a {kind}"
        return ChangeResult(open_change, FAILED, cause, events.failed(open_change, cause, now_ns))
    if kind == ROLLBACK and is_taken_back_by_rollback(open_change):
        return ChangeResult(open_change, UNDONE, f"taken back by a rollback: {reason}")
    return None
