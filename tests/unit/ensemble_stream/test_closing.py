"""A batch of ended streams whose rows can be closed only in part, as while a disk fills up."""

from contextlib import closing

import pytest

from engine_process.messages import End, Generate, Reason, Tokens, write_ids
from ensemble_stream.stream import Stream
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.row_record import RowRecord
from llm_policy.steps import ledger_writer
from llm_policy.steps.ledger_writer import LedgerWriter
from llm_policy.steps.postprocess import Postprocess
from llm_policy.text.incremental_detokenizer import IncrementalDetokenizer
from llm_policy.triton.request_log import RequestLog
from tests import pb_utils
from tests.ledgers import NEW_ROW
from tests.unit.llm_policy.triton.policy_models import RELEASE, TOKENIZER

POSTPROCESS = Postprocess(RELEASE.manifest, TOKENIZER)
ROW = NEW_ROW._replace(schema_id="", max_completion_tokens=8, end_id=TOKENIZER.eos_id)


@pytest.fixture(scope="module")
def stream_closer():
    with pb_utils.installed("ensemble_stream.triton.closing") as (module,):
        yield module.StreamCloser


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_writer, "RETRY_S", 3_600.0)  # nothing is flushed by the clock
    return LedgerWriter(tmp_path, RELEASE.manifest, "boot-1")


def ended(record: RowRecord, text: str, reason: Reason, code: str = "") -> Stream:
    ids = TOKENIZER.encode_text(text).tolist()
    stream = Stream(record, Generate(1, write_ids([1]), 8), IncrementalDetokenizer(TOKENIZER.token_bytes))
    stream.add(Tokens(1, write_ids(ids)))
    stream.end = End(1, reason, code, "why", 3, len(ids), 1_000_000, 2_000_000, 3_000_000, 4_000_000)
    return stream


def admitted(ledger, number):
    return [records[0] for records in ledger.record([[ROW]] * number)]


def prevent(tmp_path, state):
    """No row can be closed as `state`, as on a full disk."""
    with closing(open_database(tmp_path / FILE_NAME)) as connection:
        connection.execute(
            f"CREATE TRIGGER broken BEFORE UPDATE ON request WHEN NEW.state = '{state}' "
            "BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
        )


def repair(tmp_path):
    with closing(open_database(tmp_path / FILE_NAME)) as connection:
        connection.execute("DROP TRIGGER broken")


def states(tmp_path):
    with closing(open_database(tmp_path / FILE_NAME)) as connection:
        return [(state, code) for state, code in connection.execute("SELECT state, code FROM request ORDER BY id")]


def close(stream_closer, ledger):
    """Close a failed, an answered and a failed stream; their codes, "" for an answer."""
    first, second, third = admitted(ledger, 3)
    streams = [
        ended(first, "", "error", "overloaded"),
        ended(second, "Hello", "stop"),
        ended(third, "", "error", "overloaded"),
    ]
    closer = stream_closer(POSTPROCESS, ledger, RequestLog())
    conclusions = closer.close(streams)
    return [conclusion.error.code.value if conclusion.error else "" for conclusion in conclusions]


def test_each_stream_has_its_own_conclusion(stream_closer, ledger, tmp_path):
    assert close(stream_closer, ledger) == ["overloaded", "", "overloaded"]
    assert states(tmp_path) == [("refused", "overloaded"), ("settled", ""), ("refused", "overloaded")]


def test_a_settled_answer_is_sent_although_the_other_rows_can_not_be_closed(stream_closer, ledger, tmp_path):
    ledger.open()
    prevent(tmp_path, "refused")
    assert close(stream_closer, ledger) == ["ledger_unavailable", "", "ledger_unavailable"]
    repair(tmp_path)
    ledger.open()
    assert [state for state, _ in states(tmp_path)] == ["refused", "settled", "refused"]


def test_rows_without_usage_are_closed_although_the_others_can_not(stream_closer, ledger, tmp_path):
    ledger.open()
    prevent(tmp_path, "settled")
    assert close(stream_closer, ledger) == ["overloaded", "ledger_unavailable", "overloaded"]
    repair(tmp_path)
    ledger.open()
    assert states(tmp_path) == [("refused", "overloaded"), ("refused", "ledger_unavailable"), ("refused", "overloaded")]
