"""The extrapolation of a flood to a day."""

import json

import pytest

from llm_policy.errors import Code
from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.ledger.row_record import RowRecord
from llm_policy.rules.headers import MAX_HEADER_CHARS, HeaderGate
from llmstack.bench import flood
from llmstack.bench.flood import FloodMeasurement, flood_headers
from llmstack.ledger.verification import verify
from tests.ledgers import open_ledger

HASH = "sha256:" + "a" * 64
MINUTE_NS = 60_000_000_000


def test_a_day_has_the_rows_of_its_minutes_at_any_rate():
    found = FloodMeasurement(120.0, 60_000, 2, 6, 2, 450.0, 150.0, 8_192)
    assert found.bytes_per_day == (3 * 450 + 150) * 1_440
    assert found.per_second == 500
    assert found.unsampled_bytes_per_day == 500 * 86_400 * 450


@pytest.mark.parametrize("is_mixed", [False, True])
def test_no_kind_of_header_names_engine_and_tenant(is_mixed):
    gate = HeaderGate(HASH, "w4a8")
    for headers in flood_headers(HASH, "w4a8", is_mixed=is_mixed):
        check = gate.check(json.dumps(dict(headers)))
        assert check.faults or not check.sender.tenant


def test_the_bytes_of_a_row_are_those_by_which_the_ledger_grows(tmp_path):
    ledger = open_ledger(tmp_path)
    row = RowRecord(code="missing_header")
    ledger.record([[row]] * 10, MINUTE_NS)
    row_bytes, count_bytes = flood._measure_bytes(ledger.connection)
    before = flood._used_bytes(ledger.connection)
    for minute in range(2, 1_002):
        ledger.record([[row]] * 10, minute * MINUTE_NS)
    grown = flood._used_bytes(ledger.connection) - before
    assert grown == pytest.approx(1_000 * (SAMPLE_ROWS * row_bytes + count_bytes), rel=0.1)
    assert verify(ledger.connection, 0, 600).discrepancies == []


def test_a_day_of_every_code_in_every_minute_stays_under_50_megabytes(tmp_path):
    ledger = open_ledger(tmp_path)
    row = RowRecord(request_id="x" * MAX_HEADER_CHARS, tenant="x" * MAX_HEADER_CHARS, task="rank_candidates")
    ledger.record([[row._replace(code=Code.QUANTISATION_MISMATCH.value)]] * 10, MINUTE_NS)
    row_bytes, count_bytes = flood._measure_bytes(ledger.connection)
    ends_admitted = {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ENGINE_UNAVAILABLE}
    needs_key = {Code.TENANT_FORBIDDEN, Code.TENANT_BUDGET_OVERRUN, Code.RATE_LIMITED}  # of a known tenant alone
    num_codes, num_tasks = len(set(Code) - ends_admitted - needs_key), 4
    assert 1_440 * num_codes * (SAMPLE_ROWS * row_bytes + num_tasks * count_bytes) < 50e6
