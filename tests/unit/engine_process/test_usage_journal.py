"""The engine notes the tokens of each row where the ledger finds them."""

import sqlite3
from contextlib import closing

import pytest

from engine_process import usage_journal
from engine_process.usage_journal import FILE_NAME, UsageJournal


@pytest.fixture
def log_lines():
    return []


@pytest.fixture
def journal(tmp_path, log_lines):
    opened = UsageJournal(tmp_path / FILE_NAME, log_lines.append)
    yield opened
    opened.close()


def notes(tmp_path):
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        return connection.execute("SELECT boot_id, ledger_id, num_completion_tokens FROM row_usage").fetchall()


def test_a_later_note_replaces_an_earlier_one(journal, tmp_path):
    for ledger_id, num_tokens in ((5, 2), (6, 1), (5, 3)):
        journal.note("boot-1", ledger_id, num_tokens)
        journal.flush()
    assert notes(tmp_path) == [("boot-1", 5, 3), ("boot-1", 6, 1)]


def test_rows_of_several_server_starts_are_kept_apart(journal, tmp_path):
    journal.note("boot-1", 5, 2)
    journal.note("boot-2", 5, 3)
    journal.flush()
    assert notes(tmp_path) == [("boot-1", 5, 2), ("boot-2", 5, 3)]


def test_rows_that_the_ledger_does_not_know_are_not_noted(journal, tmp_path):
    journal.note("boot-1", 0, 1)
    journal.note("", 5, 1)
    journal.flush()
    assert not (tmp_path / FILE_NAME).exists()


def test_the_end_of_a_row_is_noted_also_without_tokens(journal, tmp_path):
    journal.note("boot-1", 5, 0, has_ended=True)
    journal.note("boot-1", 6, 3)
    journal.flush()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        found = connection.execute("SELECT ledger_id, num_completion_tokens, has_ended FROM row_usage").fetchall()
    assert found == [(5, 0, 1), (6, 3, 0)]


def test_old_notes_are_deleted(journal, tmp_path, monkeypatch):
    journal.note("boot-1", 5, 1)
    journal.flush()
    monkeypatch.setattr(usage_journal, "_KEPT_NS", -1_000_000_000_000)
    monkeypatch.setattr(journal, "_next_delete_ns", 0)
    journal.note("boot-1", 6, 1)
    journal.flush()
    assert notes(tmp_path) == []


def test_a_note_that_cannot_be_written_is_logged_and_later_ones_are_written(tmp_path, log_lines):
    journal = UsageJournal(tmp_path / "absent" / FILE_NAME, log_lines.append)
    journal.note("boot-1", 5, 1)
    journal.flush()
    assert log_lines == ["usage can't be noted: OperationalError"]
    (tmp_path / "absent").mkdir()
    journal.note("boot-1", 6, 1)
    journal.flush()
    assert notes(tmp_path / "absent") == [("boot-1", 6, 1)]
    journal.close()
