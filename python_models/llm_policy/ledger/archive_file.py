"""The files that hold archived rows, and the metric sums of these rows.

Every row is counted once at every moment, whatever dies: a row is removed from the table `request` in the transaction
that adds it to the sums of its file and moves the file's `counted_through` to its id. Rows of a file beyond that id are
still in the ledger and do not count in the file. Nor do the excluded ones: they changed after they were written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

TABLES = """
CREATE TABLE IF NOT EXISTS archive_file (
    name TEXT PRIMARY KEY,             -- its path in the directory of the archive
    directory TEXT NOT NULL,           -- where it was written
    first_day INTEGER NOT NULL,        -- the days of its rows (since 1970)
    end_day INTEGER NOT NULL,          -- exclusive
    state TEXT NOT NULL CHECK (state IN ('writing', 'removing', 'complete')),
    num_rows INTEGER NOT NULL,         -- 0 while it is written
    counted_through INTEGER NOT NULL   -- rows up to this id count in the file, and are not in the ledger
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS archived_sum (   -- the part of each metric total whose rows are archived
    file TEXT NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (file, name, labels)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS archive_exclusion (   -- rows of a file that do not count in it
    file TEXT NOT NULL,
    ledger_id INTEGER NOT NULL,
    PRIMARY KEY (file, ledger_id)
) WITHOUT ROWID;
"""

WRITING, REMOVING, COMPLETE = "writing", "removing", "complete"

_FILES = "SELECT name, directory, first_day, end_day, state, num_rows, counted_through FROM archive_file ORDER BY name"
_ADD_SUM = (
    "INSERT INTO archived_sum (file, name, labels, value) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (file, name, labels) DO UPDATE SET value = value + excluded.value"
)

Sums = Mapping[tuple[str, str], int]  # by name and labels of a metric total


class ArchiveFile(NamedTuple):
    """One file. The rows that count in it have an id up to `counted_through` that is not excluded."""

    name: str
    directory: str
    first_day: int
    end_day: int
    state: str = WRITING
    num_rows: int = 0
    counted_through: int = 0
    excluded: frozenset[int] = frozenset()

    def counts(self, ledger_id: int) -> bool:
        """Whether this row of the file counts in it."""
        return ledger_id <= self.counted_through and ledger_id not in self.excluded


def read_files(connection: sqlite3.Connection) -> list[ArchiveFile]:
    """All files by name; none in a ledger that an earlier version wrote."""
    if not _has_table(connection):
        return []
    excluded: dict[str, set[int]] = {}
    for file, ledger_id in connection.execute("SELECT file, ledger_id FROM archive_exclusion"):
        excluded.setdefault(file, set()).add(ledger_id)
    rows = connection.execute(_FILES).fetchall()
    return [ArchiveFile(*(*row, frozenset(excluded.get(row[0], ())))) for row in rows]


def read_counted_files(connection: sqlite3.Connection) -> list[ArchiveFile]:
    """The files that have rows which count in them."""
    return [file for file in read_files(connection) if file.counted_through]


def read_sums(connection: sqlite3.Connection) -> dict[str, dict[tuple[str, str], int]]:
    """The sums of the archived rows by file."""
    sums: dict[str, dict[tuple[str, str], int]] = {}
    if _has_table(connection):
        for file, name, labels, value in connection.execute("SELECT file, name, labels, value FROM archived_sum"):
            sums.setdefault(file, {})[name, labels] = value
    return sums


def begin_file(connection: sqlite3.Connection, file: ArchiveFile) -> None:
    """Record a file that is going to be written, in the caller's transaction, so that none is ever unknown."""
    connection.execute("INSERT INTO archive_file VALUES (?, ?, ?, ?, ?, ?, ?)", file[:7])


def forget_file(connection: sqlite3.Connection, name: str) -> None:
    """Forget a file that was not written completely, in the caller's transaction."""
    connection.execute("DELETE FROM archive_file WHERE name = ? AND state = 'writing'", (name,))


def begin_removal(connection: sqlite3.Connection, name: str, num_rows: int) -> None:
    """Record that the file is complete, in the caller's transaction; its rows are all in the ledger still."""
    connection.execute("UPDATE archive_file SET state = 'removing', num_rows = ? WHERE name = ?", (num_rows, name))


def move_rows(
    connection: sqlite3.Connection, name: str, removed: Iterable[int], sums: Sums, excluded: Iterable[int], through: int
) -> None:
    """Let the rows up to the id `through` count in the file: delete `removed`, whose sums these are, exclude others.

    In the caller's transaction.
    """
    connection.executemany("DELETE FROM request WHERE id = ?", [(ledger_id,) for ledger_id in removed])
    connection.executemany(_ADD_SUM, [(name, *key, value) for key, value in sums.items() if value])
    connection.executemany(
        "INSERT OR IGNORE INTO archive_exclusion VALUES (?, ?)", [(name, ledger_id) for ledger_id in excluded]
    )
    connection.execute("UPDATE archive_file SET counted_through = ? WHERE name = ?", (through, name))


def end_removal(connection: sqlite3.Connection, name: str, num_rows: int) -> None:
    """Record that all rows of the file count in it and that it has no others, in the caller's transaction."""
    connection.execute("DELETE FROM archive_exclusion WHERE file = ?", (name,))
    connection.execute("UPDATE archive_file SET state = 'complete', num_rows = ? WHERE name = ?", (num_rows, name))


def _has_table(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'archive_file'").fetchone() is not None
