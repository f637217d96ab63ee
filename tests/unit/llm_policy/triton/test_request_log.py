"""The fields of a row's log line."""

import json

import pytest

from llm_policy.api_key import create_key
from llm_policy.errors import Code, create_error
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.triton import request_log
from llm_policy.triton.request_log import RequestLog, row_fields
from tests.ledgers import NEW_ROW, settlement

COMMON = {
    "request_id": "r-1",
    "trace_id": "",
    "tenant": "acme",
    "task": "judge",
    "schema_id": "order",
    "canary": False,
    "num_prompt_tokens": 500,
}
ANSWERED = settlement(7, flags=["truncated"], finish_reason="length", schema_valid=True)


def test_the_line_of_an_answered_row_has_its_usage():
    assert row_fields(ANSWERED) == COMMON | {
        "num_completion_tokens": 40,
        "cost_nano_usd": 62_000,
        "queue_delay_us": 900,
        "flags": ("truncated",),
        "outcome": "settled",
        "code": "",
        "ledger_id": 7,
        "finish_reason": "length",
        "schema_valid": True,
    }


def test_the_line_of_an_answer_that_is_withheld_has_no_usage():
    (withheld,) = rejected([ANSWERED], Code.LEDGER_UNAVAILABLE)
    assert row_fields(withheld) == COMMON | {
        "num_completion_tokens": 0,
        "cost_nano_usd": 0,
        "queue_delay_us": None,
        "flags": [],
        "outcome": "refused",
        "code": "ledger_unavailable",
        "ledger_id": 7,
    }


def test_each_row_of_a_rejected_request_has_a_line_with_its_ledger_id():
    records = [NEW_ROW._replace(ledger_id=ledger_id) for ledger_id in (7, 8)]
    lines = [row_fields(record) for record in rejected(records, Code.UNKNOWN_SCHEMA)]
    assert [(line["ledger_id"], line["code"], line["outcome"]) for line in lines] == [
        (7, "unknown_schema", "refused"),
        (8, "unknown_schema", "refused"),
    ]


def test_a_row_that_could_not_be_recorded_has_no_ledger_id():
    (record,) = rejected([RowRecord(request_id="r-1")], Code.LEDGER_UNAVAILABLE)
    assert row_fields(record)["ledger_id"] is None


@pytest.fixture
def written(monkeypatch):
    """The bytes that go to the server's log."""
    chunks: list[bytes] = []
    monkeypatch.setattr(request_log, "_write", chunks.append)
    return chunks


def test_the_line_of_a_rejected_row_says_why_without_a_key(written):
    key, log = create_key(), RequestLog()
    (record,) = rejected([NEW_ROW], Code.UNKNOWN_SCHEMA)
    log.add(record, create_error(Code.UNKNOWN_SCHEMA, f"there is no schema {key}"))
    log.flush()
    line = json.loads(b"".join(written))
    assert line["reason"].startswith("there is no schema ")
    assert key not in line["reason"]
    assert (line["code"], line["level"]) == ("unknown_schema", "info")
    assert "time" in line


def test_the_line_of_an_answered_row_has_no_reason(written):
    log = RequestLog()
    log.add(ANSWERED)
    log.flush()
    assert "reason" not in json.loads(b"".join(written))
