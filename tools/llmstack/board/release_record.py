"""When releases were promoted and rolled back: from the events that the board received and the service's journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from llmstack.board.history import ChangeEvent, read_change_events
from llmstack.board.sign_offs import NEVER_NS
from llmstack.release.change import COMPLETED, PROMOTION, Change, ReleaseRef
from llmstack.release.change_events import FAILED, PROMOTED
from llmstack.release.journal import ReleaseJournal
from llmstack.release.last_rollback import Rollback, is_same, latest, rollback_of

_Found = TypeVar("_Found")


class Promotion(NamedTuple):
    """One completed promotion; `override` is the reason for passing over the gates in `overridden`, else empty."""

    release: ReleaseRef
    time_ns: int  # Unix time
    override: str = ""
    overridden: tuple[str, ...] = ()


class ReleaseRecord(NamedTuple):
    """The last promotion and the last rollback of one release."""

    promotion: Promotion | None = None
    rollback: Rollback | None = None

    @property
    def rolled_back_ns(self) -> int:
        """When the release was rolled back last (Unix time); sign-offs from before then do not count."""
        return self.rollback.time_ns if self.rollback else NEVER_NS

    @property
    def is_rolled_back(self) -> bool:
        """Whether the release was rolled back and has not been promoted since."""
        return self.rollback is not None and (self.promotion is None or self.promotion.time_ns <= self.rollback.time_ns)


class ReleaseRecords(NamedTuple):
    """Every promotion and rollback that is known."""

    promotions: tuple[Promotion, ...]
    rollbacks: tuple[Rollback, ...]

    def of(self, release: ReleaseRef) -> ReleaseRecord:
        """The record of the release with these hashes."""
        promotions = (each for each in self.promotions if is_same(each.release, release))
        rollbacks = (each for each in self.rollbacks if is_same(each.release, release))
        return ReleaseRecord(max(promotions, key=lambda each: each.time_ns, default=None), latest(rollbacks))


def read_records(connection: sqlite3.Connection, state_dir: Path) -> ReleaseRecords:
    """The records from events, and from the journal in `state_dir` where that can be read.

    A change is in both where the service sends its events here; both have the same time to within milliseconds.
    """
    events, changes = read_change_events(connection), _read_journal(state_dir)
    return ReleaseRecords(
        (*_present(map(_promotion_of_event, events)), *_present(map(_promotion_of, changes))),
        (*_present(map(_rollback_of_event, events)), *_present(map(rollback_of, changes))),
    )


def _read_journal(state_dir: Path) -> list[Change]:
    try:
        return ReleaseJournal(state_dir).changes()
    except (sqlite3.Error, OSError):  # `llmstack release promote` reads it itself, and says so
        return []


def _promotion_of(change: Change) -> Promotion | None:
    if change.kind != PROMOTION or change.outcome != COMPLETED:
        return None
    return Promotion(change.target, change.ended_ns or change.step_ns, change.reason, change.overridden)


def _promotion_of_event(event: ChangeEvent) -> Promotion | None:
    if event.type != PROMOTED:
        return None
    target = ReleaseRef("", event.text("engine_hash"), event.text("manifest_hash"))
    return Promotion(target, event.time_ns, event.data.override or "", tuple(event.data.overridden))


def _rollback_of_event(event: ChangeEvent) -> Rollback | None:
    """Every change but a successful promotion takes a release out of service."""
    if event.type == PROMOTED:
        return None
    data = event.data
    if event.type == FAILED and data.kind == PROMOTION:
        prefix, cause = "", data.cause
    elif event.type == FAILED:  # a rollback whose target does not start; its reason is the root cause
        prefix, cause = "from_", event.text("reason")
    else:
        prefix, cause = "from_", data.root_cause
    release = ReleaseRef("", event.text(f"{prefix}engine_hash"), event.text(f"{prefix}manifest_hash"))
    return Rollback(release, event.time_ns, cause or "")


def _present(found: Iterable[_Found | None]) -> Iterable[_Found]:
    return (each for each in found if each is not None)
