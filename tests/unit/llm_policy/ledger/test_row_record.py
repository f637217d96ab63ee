"""The record of a row, and the ledger row that is written from it."""

import pytest

from llm_policy.errors import Code
from llm_policy.ledger.row_record import RowRecord, rejected
from tests.ledgers import open_ledger, rows
from tests.manifests import ENGINE_HASH

# Every field has a value of its own, so that two exchanged columns are found.
ADMITTED = RowRecord(
    request_id="r-1",
    tenant="acme",
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    is_canary=True,
    row_number=3,
    task="judge",
    schema_id="order",
    guide_kind="json_schema",
    guide_text="{}",
    num_prompt_tokens=500,
    max_completion_tokens=60,
    prompt_nano_usd=50_000,
    projected_nano_usd=200_000,
    end_id=7,
    includes_prompt=True,
    stop_words=((8, 9),),
)
ANSWER = {
    "schema_id": "sha256:0123456789abcdef",
    "finish_reason": "length",
    "num_completion_tokens": 40,
    "actual_nano_usd": 62_000,
    "schema_valid": True,
    "flags": ("truncated", "cost_breach"),
    "queue_delay_us": 900,
    "time_to_first_token_us": 5_000,
    "total_time_us": 9_000,
}
ADMITTED_NS, CLOSED_NS = 10_000, 20_000
OPEN_ROW = {
    "id": 1,
    "request_id": "r-1",
    "tenant": "acme",
    "task": "judge",
    "schema_id": "order",
    "engine_hash": ENGINE_HASH,
    "boot_id": "boot-1",
    "row_number": 3,
    "canary": 1,
    "num_prompt_tokens": 500,
    "num_completion_tokens": 0,
    "projected_nano_usd": 200_000,
    "actual_nano_usd": 50_000,
    "queue_delay_us": None,
    "flags": "",
    "state": "admitted",
    "swept_as": "",
    "code": "",
    "admitted_ns": ADMITTED_NS,
    "closed_ns": None,
    "reserved_tokens": None,
}
SETTLED_ROW = OPEN_ROW | {
    "schema_id": "sha256:0123456789abcdef",
    "num_completion_tokens": 40,
    "actual_nano_usd": 62_000,
    "queue_delay_us": 900,
    "flags": "truncated,cost_breach",
    "state": "settled",
    "closed_ns": CLOSED_NS,
}


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.connection.close()


def admit(ledger):
    ((admitted,),) = ledger.record([[ADMITTED]], ADMITTED_NS)
    return admitted


def test_the_columns_of_an_admitted_row_come_from_its_record(ledger):
    admitted = admit(ledger)
    assert admitted == ADMITTED._replace(ledger_id=1)
    assert rows(ledger) == [OPEN_ROW]


def test_the_columns_of_a_settled_row_come_from_its_record(ledger):
    ledger.settle([admit(ledger)._replace(**ANSWER)], CLOSED_NS)
    assert rows(ledger) == [SETTLED_ROW]


def test_the_columns_of_a_row_that_is_settled_late_come_from_its_record(ledger):
    admitted = admit(ledger)
    ledger.close_unanswered(ADMITTED_NS + 1, max_open_s=0)
    ledger.settle([admitted._replace(**ANSWER)], CLOSED_NS)
    assert rows(ledger) == [SETTLED_ROW | {"swept_as": "cancelled"}]


def test_a_row_rejected_at_once_or_later_differs_only_in_state_code_and_cost(ledger):
    refused = OPEN_ROW | {"state": "refused", "code": "schema_invalid", "actual_nano_usd": 0}
    ledger.record([rejected([ADMITTED], Code.SCHEMA_INVALID)], ADMITTED_NS)
    ledger.reject(rejected([admit(ledger)], Code.SCHEMA_INVALID), CLOSED_NS)
    assert rows(ledger) == [refused | {"closed_ns": ADMITTED_NS}, refused | {"id": 2, "closed_ns": CLOSED_NS}]


def test_a_shed_request_comes_back_with_the_code_overloaded(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    client = ADMITTED._replace(is_canary=False, row_number=0)
    recorded = ledger.record([[client], [client, client._replace(row_number=1)]])
    assert [[row.code for row in request] for request in recorded] == [[""], ["overloaded", "overloaded"]]
    assert [row.ledger_id for request in recorded for row in request] == [1, 2, 3]


def test_a_rejected_record_differs_only_in_its_code():
    admitted = ADMITTED._replace(ledger_id=7)
    assert rejected([admitted, admitted], Code.OVERLOADED) == [admitted._replace(code="overloaded")] * 2
    assert admitted.code == ""
