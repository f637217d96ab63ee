"""The journal of releases in ledger.db: every change of the release in service, step by step.

A step is committed before it is performed, so after a crash the journal shows how far an open change can have come. The
end of a change and the event that reports it are one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from llm_policy.ledger import outbox
from llm_policy.ledger.database import FILE_NAME, open_database, open_read_only, transaction
from llmstack.release.change import REQUESTED, Approval, Change, ChangeRequest, ChangeResult, ReleaseRef

_TABLES = """
CREATE TABLE IF NOT EXISTS release_change (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('promotion', 'rollback')),
    link TEXT NOT NULL,                -- the link that is switched
    source TEXT NOT NULL,              -- directory of the release before; empty when there was none
    source_engine_hash TEXT NOT NULL,
    source_manifest_hash TEXT NOT NULL,
    source_build_hash TEXT NOT NULL,   -- SHA-256 of build_manifest.json; empty without one
    target TEXT NOT NULL,
    target_engine_hash TEXT NOT NULL,
    target_manifest_hash TEXT NOT NULL,
    target_build_hash TEXT NOT NULL,
    reason TEXT NOT NULL,              -- a rollback's root cause; why a promotion overrides its gates
    overridden TEXT NOT NULL,          -- what the release lacked then, one line each
    operator TEXT NOT NULL,            -- who requested the change, user@host
    required_sign_offs INTEGER,        -- of a promotion; null for a rollback
    reviewers TEXT NOT NULL,           -- who had signed then, one line each
    start_timeout_s REAL,              -- null: the service's own
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


class ChangeInProgress(RuntimeError):
    """Another change is open; only one may be."""


class ReleaseJournal:
    """The journal in one state directory. Several processes may use it; each call opens its own connection.

    Every method raises sqlite3.Error when the ledger can't be read or written.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME

    def request(self, request: ChangeRequest, now_ns: int, *, superseded: ChangeResult | None = None) -> Change:
        """Open a change, and in the same transaction end the one that it supersedes, if that is still open.

        Raises:
            ChangeInProgress: another change is open.
        """
        with self._writable() as connection:
            if superseded is not None:
                _end(connection, superseded, now_ns)
            try:
                cursor = connection.execute(_INSERT, _request_row(request, now_ns))
            except sqlite3.IntegrityError:
                raise ChangeInProgress from None
            return _change(_select(connection, "WHERE id = ?", cursor.lastrowid).fetchone())

    def open_change(self) -> Change | None:
        """The change in progress."""
        return next(iter(self._read("WHERE outcome = 'open'")), None)

    def change(self, change_id: int) -> Change:
        """The change with this id, in its current state."""
        return self._read("WHERE id = ?", change_id)[0]

    def changes(self) -> list[Change]:
        """Every change, the oldest first."""
        return self._read("ORDER BY id")

    def advance(self, change: Change, step: str, now_ns: int, detail: str | None = None) -> bool:
        """Record that `step` is about to be performed; False when the change is no longer open."""
        with self._writable() as connection:
            cursor = connection.execute(
                "UPDATE release_change SET step = ?, step_ns = ?, detail = coalesce(?, detail) "
                "WHERE id = ? AND outcome = 'open'",
                (step, now_ns, detail, change.id),
            )
            return cursor.rowcount == 1

    def end(self, result: ChangeResult, now_ns: int) -> bool:
        """Close the change and queue its event; False, with no event, when the change is no longer open."""
        with self._writable() as connection:
            return _end(connection, result, now_ns)

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
        with closing(open_read_only(self._path)) as connection:
            return [_change(row) for row in _select(connection, where, *values)] if _has_table(connection) else []


def _has_table(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'release_change_open'").fetchone() is not None


def _select(connection: sqlite3.Connection, where: str, *values: object) -> sqlite3.Cursor:
    # `where` is always a constant of this module.
    return connection.execute(f"{_SELECT} {where}", values)


def _end(connection: sqlite3.Connection, result: ChangeResult, now_ns: int) -> bool:
    cursor = connection.execute(
        "UPDATE release_change SET outcome = ?, ended_ns = ?, detail = CASE ? WHEN '' THEN detail ELSE ? END "
        "WHERE id = ? AND outcome = 'open'",
        (result.outcome, now_ns, result.detail, result.detail, result.change.id),
    )
    if not cursor.rowcount:
        return False
    if result.event is not None:
        outbox.append(connection, result.event, [outbox.READINESS])
    return True


def _request_row(request: ChangeRequest, now_ns: int) -> tuple[object, ...]:
    """The values of `_REQUEST_COLUMNS`."""
    operator, required_sign_offs, reviewers = request.approval
    return (
        request.kind,
        str(request.link),
        *request.source,
        *request.target,
        request.reason,
        "\n".join(request.overridden),
        operator,
        required_sign_offs,
        "\n".join(reviewers),
        request.start_timeout_s,
        REQUESTED,
        now_ns,
        now_ns,
    )


def _change(row: tuple) -> Change:  # type: ignore[type-arg]
    change_id, kind, link, *releases = row[:11]
    reason, overridden, operator, required_sign_offs, reviewers, start_timeout_s = row[11:17]
    return Change(
        change_id,
        kind,
        link,
        ReleaseRef(*releases[:4]),
        ReleaseRef(*releases[4:]),
        reason,
        tuple(overridden.splitlines()),
        Approval(operator, required_sign_offs, tuple(reviewers.splitlines())),
        start_timeout_s,
        *row[17:],
    )
