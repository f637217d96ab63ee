"""Which releases were taken out of service again, when and why: sign-offs from before then no longer count.

A rollback takes a release out of service; so does a promotion that failed, whose release the service left by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from llmstack.release.change import (
    COMPLETED,
    FAILED,
    PROMOTION,
    RECOVERING,
    REFUSED,
    REQUESTED,
    ROLLBACK,
    UNDOING,
    UNDONE,
    Change,
    ReleaseRef,
    utc,
)
from llmstack.release.journal import ReleaseJournal


class Rollback(NamedTuple):
    """One release that was taken out of service; `cause` says why, `time_ns` (Unix time) when that ended."""

    release: ReleaseRef
    time_ns: int
    cause: str

    @property
    def text(self) -> str:
        """When and why, for people."""
        return f"rolled back at {utc(self.time_ns)}: {self.cause or 'no cause on record'}"


def read_last_rollback(state_dir: Path, release: ReleaseRef) -> Rollback | None:
    """The last rollback of `release` in the journal of `state_dir`.

    Raises:
        sqlite3.Error: the journal can't be read.
    """
    return last_rollback(ReleaseJournal(state_dir).changes(), release)


def last_rollback(changes: Sequence[Change], release: ReleaseRef) -> Rollback | None:
    """The last rollback of `release` among `changes`, by the time at which it ended."""
    return latest(each for change in changes if (each := rollback_of(change)) and is_same(each.release, release))


def is_rolled_back(changes: Sequence[Change], release: ReleaseRef) -> bool:
    """Whether `release` was rolled back and has not been promoted since; `changes` has the oldest first."""
    result = False
    for change in changes:
        if (found := rollback_of(change)) and is_same(found.release, release):
            result = True
        elif change.kind == PROMOTION and change.outcome == COMPLETED and is_same(change.target, release):
            result = False
    return result


def latest(rollbacks: Iterable[Rollback]) -> Rollback | None:
    """The latest of them, or None."""
    return max(rollbacks, key=lambda each: each.time_ns, default=None)


def rollback_of(change: Change) -> Rollback | None:
    """The release that `change` took out of service; None when it took out none."""
    time_ns = change.ended_ns or change.step_ns
    if change.kind == ROLLBACK and change.outcome != REFUSED and change.source.directory:
        return Rollback(change.source, time_ns, change.reason)
    is_failed = change.outcome in (UNDONE, FAILED) or (change.is_open and change.step in (UNDOING, RECOVERING))
    # A promotion that ends at its first step was never performed.
    if change.kind == PROMOTION and is_failed and change.step != REQUESTED:
        return Rollback(change.target, time_ns, change.detail)
    return None


def is_same(one: ReleaseRef, other: ReleaseRef) -> bool:
    """Whether both are one engine with one manifest, as sign-offs are; by directory where a hash is not known."""
    if one.engine_hash and other.engine_hash:
        return (one.engine_hash, one.manifest_hash) == (other.engine_hash, other.manifest_hash)
    return bool(one.directory) and one.directory == other.directory
