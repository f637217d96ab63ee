"""ledger.db: long reads, checkpoints and schema versions."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_policy.ledger import database
from llm_policy.ledger.database import (
    MAX_IDLE_LOG_BYTES,
    RESTART_PAGES,
    VERSION,
    NewerLedger,
    checkpoint,
    open_database,
    open_read_only,
    transaction,
)
from llmstack.cli.app import app

PAGE_BYTES = 4_096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def lengthen_log(connection: sqlite3.Connection, num_bytes: int) -> None:
    """Write `num_bytes` into the write-ahead log, in one transaction."""
    connection.execute("CREATE TABLE IF NOT EXISTS filling (content BLOB)")
    connection.execute("INSERT INTO filling VALUES (zeroblob(?))", (num_bytes,))


def start_reading(path: Path) -> sqlite3.Connection:
    """A connection with an open read transaction, like that of `llmstack ledger verify`."""
    reader = open_read_only(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM request").fetchone()
    return reader


@pytest.mark.parametrize("reads", ["before the log grew", "its last page"])
def test_neither_a_long_read_nor_a_long_log_blocks_a_writer(path, reads):
    writer = open_database(path, busy_timeout_ms=0)
    reader = start_reading(path) if reads == "before the log grew" else None
    lengthen_log(writer, 2 * RESTART_PAGES * PAGE_BYTES)
    reader = reader or start_reading(path)
    parent = open_database(path)
    checkpointing = threading.Thread(target=checkpoint, args=(parent,))
    checkpointing.start()
    while checkpointing.is_alive():
        with transaction(writer):
            writer.execute("INSERT INTO filling VALUES (NULL)")
    checkpointing.join()
    assert parent.execute("PRAGMA busy_timeout").fetchone() == (database.BUSY_TIMEOUT_MS,)
    reader.close()


def test_a_log_that_grew_during_a_long_read_shrinks_again(path):
    writer, parent = open_database(path), open_database(path)
    log = path.with_name("ledger.db-wal")
    reader = start_reading(path)
    lengthen_log(writer, MAX_IDLE_LOG_BYTES + (8 << 20))
    checkpoint(parent)
    assert log.stat().st_size > MAX_IDLE_LOG_BYTES
    reader.close()
    checkpoint(parent)
    lengthen_log(writer, 1)
    assert log.stat().st_size <= MAX_IDLE_LOG_BYTES


@pytest.mark.parametrize("opened", [open_database, open_read_only])
def test_a_ledger_of_a_newer_version_is_rejected_and_left_unchanged(path, opened: Callable[[Path], sqlite3.Connection]):
    with closing(open_database(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(NewerLedger, match=f"version {VERSION + 1}, written by a newer llmstack"):
        opened(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)


@pytest.mark.parametrize("command", [["ledger", "verify"], ["events", "list"]])
def test_commands_report_a_ledger_of_a_newer_version(path, command):
    with closing(open_database(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    done = CliRunner().invoke(app, [*command, "--state-dir", str(path.parent)])
    assert (done.exit_code, "written by a newer llmstack" in done.stderr, "next:" in done.stderr) == (2, True, True)


def test_a_ledger_that_must_exist_is_not_created(path):
    with pytest.raises(sqlite3.Error):
        open_database(path, must_exist=True)
    assert not path.exists()


def test_processes_may_create_the_same_database_together(tmp_path):
    barrier = threading.Barrier(4)

    def open_new(path: Path) -> bool:
        barrier.wait()
        with closing(open_database(path)) as connection:
            return connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    with ThreadPoolExecutor(4) as pool:
        for number in range(30):
            assert all(pool.map(open_new, [tmp_path / f"{number}.db"] * 4))
