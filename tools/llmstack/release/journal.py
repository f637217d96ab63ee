"""The journal of releases: every change of the release in service, step by step, in ledger.db.

A step is committed before it is done. So whoever finds an open change knows how far it can have come, and the end of a
change and the event that tells of it are one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from llm_policy.ledger import outbox
from llm_policy.ledger.database import FILE_NAME, open_database, open_to_read, transaction
from llm_policy.release.digest import file_digest
from llm_policy.release.release import Release
from llmstack.release.build_manifest import FILE_NAME as BUILD_MANIFEST
from llmstack.supervision.phases import PHASES

PROMOTION, ROLLBACK = "promotion", "rollback"
REQUESTED, READINESS_OFF, DRAIN, STOP, SWITCH = BEFORE = ("requested", "readiness_off", "drain", "stop", "switch")
# A promotion is taken back; what a change falls back on does not start, and is tried again and again.
UNDOING, RECOVERING = "undoing", "recovering"
STEPS = (*BEFORE, *PHASES, UNDOING, RECOVERING)
OPEN, COMPLETED, UNDONE, REFUSED, FAILED = ("open", "completed", "undone", "refused", "failed")

_TABLES = """
CREATE TABLE IF NOT EXISTS release_change (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('promotion', 'rollback')),
    link TEXT NOT NULL,                -- what is switched
    source TEXT NOT NULL,              -- the release's directory before; empty when there was none
    source_engine_hash TEXT NOT NULL,
    source_manifest_hash TEXT NOT NULL,
    source_build_hash TEXT NOT NULL,   -- SHA-256 of build_manifest.json; empty where there is none
    target TEXT NOT NULL,
    target_engine_hash TEXT NOT NULL,
    target_manifest_hash TEXT NOT NULL,
    target_build_hash TEXT NOT NULL,
    reason TEXT NOT NULL,              -- a rollback's root cause; why a promotion's missing evidence was overridden
    overridden TEXT NOT NULL,          -- what was missing then, a line each
    operator TEXT NOT NULL,            -- who asked, user@host
    required_sign_offs INTEGER,        -- a promotion's; a rollback needs none
    reviewers TEXT NOT NULL,           -- who had signed then, a line each
    start_timeout_s REAL,              -- the service's own without one
    step TEXT NOT NULL,
    outcome TEXT NOT NULL DEFAULT 'open' CHECK (outcome IN ('open', 'completed', 'undone', 'refused', 'failed')),
    detail TEXT NOT NULL DEFAULT '',
    requested_ns INTEGER NOT NULL,     -- Unix time
    step_ns INTEGER NOT NULL,          -- Unix time
    ended_ns INTEGER                   -- Unix time
);
CREATE UNIQUE INDEX IF NOT EXISTS release_change_open ON release_change (outcome) WHERE outcome = 'open';
"""
_REQUEST_COLUMNS = (
    "kind, link, source, source_engine_hash, source_manifest_hash, source_build_hash, target, target_engine_hash, "
    "target_manifest_hash, target_build_hash, reason, overridden, operator, required_sign_offs, reviewers, "
    "start_timeout_s, step, requested_ns, step_ns"
)
_INSERT = f"INSERT INTO release_change ({_REQUEST_COLUMNS}) VALUES ({', '.join('?' * 19)})"  # noqa: S608
_SELECT = f"SELECT id, {_REQUEST_COLUMNS}, outcome, detail, ended_ns FROM release_change"  # noqa: S608


class ChangeUnderWay(RuntimeError):
    """Another change is open; one at a time."""


class ReleaseRef(NamedTuple):
    """A release as a change names it; all empty where there was none."""

    directory: str = ""
    engine_hash: str = ""
    manifest_hash: str = ""
    build_hash: str = ""  # of its build manifest, where it has one

    @classmethod
    def of(cls, release: Release) -> ReleaseRef:
        """The release at its place and with its hashes.

        Raises:
            OSError: its build manifest can't be read.
        """
        build_manifest = release.directory / BUILD_MANIFEST
        build_hash = "sha256:" + file_digest(build_manifest) if build_manifest.exists() else ""
        return cls(str(release.directory), release.manifest.engine.hash, release.manifest_hash, build_hash)

    @property
    def name(self) -> str:
        """The release's name."""
        return Path(self.directory).name


class Approval(NamedTuple):
    """Who asked for a change, and who had signed for it."""

    operator: str = ""
    required_sign_offs: int | None = None
    reviewers: tuple[str, ...] = ()


NOBODY = Approval()


class Change(NamedTuple):
    """One row of the journal; times are Unix time in nanoseconds."""

    id: int
    kind: str
    link: str
    source: ReleaseRef
    target: ReleaseRef
    reason: str
    overridden: tuple[str, ...]
    approval: Approval
    start_timeout_s: float | None
    step: str
    requested_ns: int
    step_ns: int
    outcome: str
    detail: str
    ended_ns: int | None

    @property
    def is_open(self) -> bool:
        """Whether it is still under way."""
        return self.outcome == OPEN

    @property
    def duration_s(self) -> float | None:
        """From the request to the end."""
        return None if self.ended_ns is None else round((self.ended_ns - self.requested_ns) / 1e9, 3)


class ChangeResult(NamedTuple):
    """How a change ends; `event` is told to the readiness webhook in the same transaction."""

    change: Change
    outcome: str
    detail: str = ""
    event: outbox.Event | None = None


class ReleaseJournal:
    """The journal in one state directory. Several processes may use it; each call is a connection of its own.

    Every method raises sqlite3.Error when the ledger can't be read or written.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME

    def request(
        self,
        kind: str,
        link: Path,
        source: ReleaseRef,
        target: ReleaseRef,
        now_ns: int,
        *,
        reason: str = "",
        overridden: tuple[str, ...] = (),
        approval: Approval = NOBODY,
        start_timeout_s: float | None = None,
        superseded: ChangeResult | None = None,
    ) -> Change:
        """Open a change; in the same transaction the one that it supersedes ends, if it is still open.

        Raises:
            ChangeUnderWay: one is open already.
        """
        signed = (approval.operator, approval.required_sign_offs, "\n".join(approval.reviewers))
        row = (kind, str(link), *source, *target, reason, "\n".join(overridden), *signed, start_timeout_s)
        with self._writable() as connection:
            if superseded is not None:
                _end(connection, superseded, now_ns)
            try:
                cursor = connection.execute(_INSERT, (*row, REQUESTED, now_ns, now_ns))
            except sqlite3.IntegrityError:
                raise ChangeUnderWay from None
            return _change(_select(connection, "WHERE id = ?", cursor.lastrowid).fetchone())

    def open_change(self) -> Change | None:
        """The change that is under way."""
        return next(iter(self._read("WHERE outcome = 'open'")), None)

    def change(self, change_id: int) -> Change:
        """The change with this id, as it is now."""
        return self._read("WHERE id = ?", change_id)[0]

    def changes(self) -> list[Change]:
        """Every change, the oldest first."""
        return self._read("ORDER BY id")

    def advance(self, change: Change, step: str, now_ns: int, detail: str | None = None) -> bool:
        """From now on `step` may have been done; False when the change is not open any more."""
        with self._writable() as connection:
            cursor = connection.execute(
                "UPDATE release_change SET step = ?, step_ns = ?, detail = coalesce(?, detail) "
                "WHERE id = ? AND outcome = 'open'",
                (step, now_ns, detail, change.id),
            )
            return cursor.rowcount == 1

    def end(self, ending: ChangeResult, now_ns: int) -> bool:
        """Close the change and tell; False, and nothing is told, when it is not open any more."""
        with self._writable() as connection:
            return _end(connection, ending, now_ns)

    @contextmanager
    def _writable(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(open_database(self._path)) as connection:
            if not _has_table(connection):
                connection.executescript(_TABLES)
            with transaction(connection):
                yield connection

    def _read(self, where: str, *values: object) -> list[Change]:
        if not self._path.exists():
            return []
        with closing(open_to_read(self._path)) as connection:
            return [_change(row) for row in _select(connection, where, *values)] if _has_table(connection) else []


def previous_release(changes: list[Change], link: Path, current: str) -> ReleaseRef | None:
    """Where a rollback from `current` leads: the release that was promoted before it, or None.

    A promotion that held puts a release on top of the one before, a rollback takes the top away.
    """
    held: list[ReleaseRef] = []
    for change in changes:
        if change.link != str(link):
            continue
        if change.kind == PROMOTION and change.outcome == COMPLETED:
            if change.source.directory and (not held or held[-1].directory != change.source.directory):
                held.append(change.source)
            held.append(change.target)
        elif change.kind == ROLLBACK and change.outcome in (COMPLETED, FAILED, OPEN):
            held = _without_top(held, change.target.directory)
    while held and held[-1].directory == current:
        held.pop()
    return held[-1] if held else None


def _without_top(held: list[ReleaseRef], directory: str) -> list[ReleaseRef]:
    """What is left of `held` up to `directory`; all of it where that is a release which nobody promoted."""
    places = [number for number, side in enumerate(held) if side.directory == directory]
    return held[: places[-1] + 1] if places else held


def _has_table(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'release_change_open'").fetchone() is not None


def _select(connection: sqlite3.Connection, where: str, *values: object) -> sqlite3.Cursor:
    # Only clauses of this module's own come here.
    return connection.execute(f"{_SELECT} {where}", values)


def _end(connection: sqlite3.Connection, ending: ChangeResult, now_ns: int) -> bool:
    cursor = connection.execute(
        "UPDATE release_change SET outcome = ?, ended_ns = ?, detail = CASE ? WHEN '' THEN detail ELSE ? END "
        "WHERE id = ? AND outcome = 'open'",
        (ending.outcome, now_ns, ending.detail, ending.detail, ending.change.id),
    )
    if not cursor.rowcount:
        return False
    if ending.event is not None:
        outbox.append(connection, ending.event, [outbox.READINESS])
    return True


def _change(row: tuple) -> Change:  # type: ignore[type-arg]
    change_id, kind, link, *sides = row[:11]
    reason, overridden, operator, required_sign_offs, reviewers, start_timeout_s = row[11:17]
    return Change(
        change_id,
        kind,
        link,
        ReleaseRef(*sides[:4]),
        ReleaseRef(*sides[4:]),
        reason,
        tuple(overridden.splitlines()),
        Approval(operator, required_sign_offs, tuple(reviewers.splitlines())),
        start_timeout_s,
        *row[17:],
    )
