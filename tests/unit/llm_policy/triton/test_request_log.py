"""The fields of a row's log line."""

from llm_policy.errors import Code
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.triton.request_log import row_fields
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
