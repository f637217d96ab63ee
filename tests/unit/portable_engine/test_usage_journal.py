"""The engine notes the tokens of each row where the ledger finds them."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from portable_engine import usage_journal
from portable_engine.batcher import InFlightBatcher
from portable_engine.engine_loop import EngineLoop
from portable_engine.sequence import GenerationRequest, Sequence
from portable_engine.usage_journal import FILE_NAME, UsageJournal, ledger_ids
from tests.unit.portable_engine.test_engine_loop import Client, Grammars
from tests.unit.portable_engine.tiny_qwen3 import mask_nothing, tiny_model


@pytest.fixture
def log_lines():
    return []


@pytest.fixture
def journal(tmp_path, log_lines):
    opened = UsageJournal(tmp_path / FILE_NAME, "boot-1", log_lines.append)
    yield opened
    opened.close()


def sequence_with(ledger_id, *token_ids):
    request = GenerationRequest([1], 100, end_id=7)
    return Sequence(request, arrival_time_ns=0, ledger_id=ledger_id, completion_token_ids=list(token_ids))


def notes(tmp_path):
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        return connection.execute("SELECT boot_id, ledger_id, num_completion_tokens FROM usage").fetchall()


def test_a_later_note_replaces_an_earlier_one(journal, tmp_path):
    for sequence in (sequence_with(5, 1, 2), sequence_with(6, 1), sequence_with(5, 1, 2, 3)):
        journal.note([sequence])
        journal.flush()
    assert notes(tmp_path) == [("boot-1", 5, 3), ("boot-1", 6, 1)]


def test_the_end_token_is_not_counted_as_in_an_answer(journal, tmp_path):
    journal.note([sequence_with(5, 1, 2, 7)])
    journal.flush()
    assert notes(tmp_path) == [("boot-1", 5, 2)]


def test_rows_without_an_id_or_without_tokens_are_not_noted(journal, tmp_path):
    journal.note([sequence_with(0, 1), sequence_with(5)])
    journal.flush()
    assert not (tmp_path / FILE_NAME).exists()


def test_old_notes_are_deleted(journal, tmp_path, monkeypatch):
    journal.note([sequence_with(5, 1)])
    journal.flush()
    monkeypatch.setattr(usage_journal, "_KEPT_NS", -1_000_000_000_000)
    monkeypatch.setattr(journal, "_next_delete_ns", 0)
    journal.note([sequence_with(6, 1)])
    journal.flush()
    assert notes(tmp_path) == []


def test_a_note_that_cannot_be_written_is_logged_and_later_ones_are_written(tmp_path, log_lines):
    journal = UsageJournal(tmp_path / "absent" / FILE_NAME, "boot-1", log_lines.append)
    journal.note([sequence_with(5, 1)])
    journal.flush()
    assert log_lines == ["usage can't be noted: OperationalError"]
    (tmp_path / "absent").mkdir()
    journal.note([sequence_with(6, 1)])
    journal.flush()
    assert notes(tmp_path / "absent") == [("boot-1", 6, 1)]
    journal.close()


def test_the_loop_has_noted_every_row_when_it_ends(tmp_path, log_lines):
    journal = UsageJournal(tmp_path / FILE_NAME, "boot-1", log_lines.append)
    loop = EngineLoop(InFlightBatcher(tiny_model(), 4, mask_nothing), Grammars(), log_lines.append, journal=journal)
    client = Client(loop, GenerationRequest([5], 3), GenerationRequest([6], 4), ledger_ids=[8, 9])
    client.response()
    loop.close()
    assert notes(tmp_path) == [("boot-1", 8, 3), ("boot-1", 9, 4)]


def test_a_row_that_is_running_when_the_loop_ends_is_noted(tmp_path, log_lines):
    journal = UsageJournal(tmp_path / FILE_NAME, "boot-1", log_lines.append)
    loop = EngineLoop(InFlightBatcher(tiny_model(), 4, mask_nothing), Grammars(), log_lines.append, journal=journal)
    long = Client(loop, GenerationRequest([5], 1_900), ledger_ids=[8])
    Client(loop, GenerationRequest([6], 2), ledger_ids=[9]).response()
    loop.close()
    assert long.response().startswith("draining")
    assert [ledger_id for _, ledger_id, _ in notes(tmp_path)] == [8, 9]


@pytest.mark.parametrize("text", [b"[]", b"[null]", b"nonsense", b"[1.5]", b""])
def test_an_id_that_cannot_be_read_is_not_known(text):
    assert ledger_ids({"policy_decision": np.frombuffer(text.ljust(12), np.uint8).reshape(1, -1)}, 1) == [0]


def test_without_the_tensor_no_id_is_known():
    assert ledger_ids({}, 2) == [0, 0]
