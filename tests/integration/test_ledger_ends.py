"""The less common outcomes of a request on a live server: shed, cancelled, rejected late, withheld, lost."""

import json
import sqlite3
import time
from contextlib import closing

import pytest
import tritonclient.grpc as triton_grpc

from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.ledger import Ledger
from llm_policy.release.release import Release
from llmstack.ledger.verification import verify
from tests.integration.client import Client, as_array
from tests.integration.live_ledger import ledger_of, metrics_of

TEXT = "Ada Lovelace ordered 5 lamps."
LONG = {"text_input": TEXT, "max_tokens": 2_000, "min_tokens": 2_000}


@pytest.fixture(scope="module")
def busy(paced_server):
    return paced_server


class LongCalls:
    """Long-running gRPC calls, cancelled at the end of the block."""

    def __init__(self, server, number):
        self._client = triton_grpc.InferenceServerClient(server.grpc_url)
        self._headers = {name.lower(): value for name, value in Client(server, "grpc").headers.items()}
        self._number = number

    def __enter__(self):
        tensors = []
        for name, value in LONG.items():
            array = as_array(name, value)
            kind = "BYTES" if array.dtype == object else "INT32"
            tensors.append(triton_grpc.InferInput(name, [1, 1], kind).set_data_from_numpy(array))
        self._calls = [
            self._client.async_infer(
                "ensemble", tensors, lambda result, error: None, headers={**self._headers, "x-request-id": f"long-{n}"}
            )
            for n in range(self._number)
        ]
        return self

    def __exit__(self, *exception):
        for call in self._calls:
            call.cancel()
        self._client.close()


def rows_where(server, condition):
    with ledger_of(server.state_dir) as ledger:
        return ledger.execute(f"SELECT request_id, state, code, canary FROM request WHERE {condition}").fetchall()


def wait_for_rows(server, condition, number):
    deadline = time.monotonic() + 60
    while len(found := rows_where(server, condition)) != number and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == number
    return found


def close_unanswered(server, max_open_s):
    """Close unanswered rows, as the parent process does each second."""
    with closing(open_database(server.state_dir / FILE_NAME)) as connection:
        ledger = Ledger(connection, Release.open(server.release_dir).manifest, server.boot_id)
        return ledger.close_unanswered(time.time_ns(), max_open_s)


def test_a_full_queue_sheds_requests_immediately_but_not_the_canary(busy):
    client = Client(busy, "grpc")
    with LongCalls(busy, 2):
        wait_for_rows(busy, "request_id LIKE 'long-%' AND state = 'admitted'", 2)
        shed = client.send({"text_input": TEXT, "max_tokens": 2}, {"X-Request-Id": "shed"})
        assert len(rows_where(busy, "request_id LIKE 'long-%' AND state = 'admitted'")) == 2  # it waited for no answer
        canary = client.send({"text_input": TEXT, "max_tokens": 2}, {"X-Canary-Token": busy.canary_token})
    assert shed.code == "overloaded"
    assert shed.status == "StatusCode.UNAVAILABLE"
    assert canary.error is None
    assert rows_where(busy, "request_id = 'shed'") == [("shed", "refused", "overloaded", 0)]
    assert [row[3] for row in rows_where(busy, "tenant = 'llmstack-canary'")] == [1]


def test_cancelled_requests_are_closed_and_charged_for_their_prompt_and_what_was_decoded(busy):
    num_open = len(rows_where(busy, "state = 'admitted'"))
    assert num_open == 2
    assert close_unanswered(busy, max_open_s=0) == 2
    with ledger_of(busy.state_dir) as ledger:
        charged = ledger.execute(
            "SELECT actual_nano_usd - 100 * num_prompt_tokens - 300 * num_completion_tokens, num_prompt_tokens > 0 "
            "FROM request WHERE state = 'cancelled'"
        ).fetchall()
    assert charged == [(0, 1), (0, 1)]


def test_closed_requests_free_their_place_in_the_queue(busy):
    assert Client(busy, "http").send({"text_input": TEXT, "max_tokens": 2}).error is None


def test_a_request_that_could_cost_too_much_is_rejected_without_cost(busy):
    rejected = Client(busy, "grpc").send({"text_input": TEXT, "max_tokens": 5_000}, {"X-Request-Id": "costly"})
    assert rejected.code == "cost_budget_overrun"
    with ledger_of(busy.state_dir) as ledger:
        (row,) = ledger.execute(
            "SELECT state, code, actual_nano_usd, projected_nano_usd > 1000000 FROM request WHERE request_id = 'costly'"
        )
    assert row == ("refused", "cost_budget_overrun", 0, 1)


def test_a_new_guide_that_is_rejected_later_closes_its_row(busy):
    inputs = {"text_input": TEXT, "guided_decoding_guide_type": "regex", "guided_decoding_guide": "[z", "max_tokens": 4}
    assert Client(busy, "grpc").send(inputs, {"X-Request-Id": "late"}).code == "schema_invalid"
    assert rows_where(busy, "request_id = 'late'") == [("late", "refused", "schema_invalid", 0)]


def test_ledger_and_log_name_the_new_schema_of_a_guided_answer(busy):
    schema = '{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"],"additionalProperties":false}'
    inputs = {"text_input": TEXT, "guided_decoding_guide_type": "json_schema", "guided_decoding_guide": schema}
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-Id": "guided", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    answer = Client(busy, "http").send({**inputs, "max_tokens": 40}, headers)
    with ledger_of(busy.state_dir) as ledger:
        ((schema_id,),) = ledger.execute("SELECT schema_id FROM request WHERE request_id = 'guided'")
    assert schema_id == answer["resolved_schema_id"]
    (line,) = [json.loads(text) for text in busy.log_path.read_text().splitlines() if '"guided"' in text]
    assert (line["request_id"], line["trace_id"], line["schema_id"]) == ("guided", trace_id, schema_id)
    values = metrics_of(busy.state_dir)
    assert values["llm_guide_compile_ms_count", ()] == values["llm_guide_cache_total", (("result", "miss"),)] > 0
    assert TEXT not in busy.log_path.read_text()


def test_a_draining_server_rejects_requests_and_records_them(busy):
    draining_file = busy.state_dir / "draining"
    draining_file.touch()
    try:
        rejected = Client(busy, "grpc").send({"text_input": TEXT}, {"X-Request-Id": "too-late"})
    finally:
        draining_file.unlink()
    assert rejected.code == "draining"
    assert rows_where(busy, "request_id = 'too-late'") == [("too-late", "refused", "draining", 0)]
    assert Client(busy, "grpc").send({"text_input": TEXT, "max_tokens": 2}).error is None


def test_nothing_is_served_while_the_ledger_cannot_be_written_and_service_resumes_afterwards(busy):
    client = Client(busy, "grpc")
    with closing(open_database(busy.state_dir / FILE_NAME)) as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON request BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        try:
            rejected = client.send({"text_input": TEXT, "max_tokens": 2}, {"X-Request-Id": "unwritten"})
        finally:
            connection.execute("DROP TRIGGER full")
    assert (rejected.code, rejected.status) == ("ledger_unavailable", "StatusCode.UNAVAILABLE")
    assert rows_where(busy, "request_id = 'unwritten'") == []
    assert client.send({"text_input": TEXT, "max_tokens": 2}).error is None


def test_an_answer_that_cannot_be_recorded_is_withheld_and_its_row_closed_later(busy):
    client = Client(busy, "grpc")
    with closing(open_database(busy.state_dir / FILE_NAME)) as connection:
        connection.execute("CREATE TRIGGER full BEFORE UPDATE ON request BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        try:
            withheld = client.send({"text_input": TEXT, "max_tokens": 2}, {"X-Request-Id": "withheld"})
        finally:
            connection.execute("DROP TRIGGER full")
    assert withheld.code == "ledger_unavailable"
    wait_for_rows(busy, "request_id = 'withheld' AND state = 'refused' AND code = 'ledger_unavailable'", 1)


@pytest.mark.slow
def test_a_killed_server_loses_only_its_open_requests(busy):
    before = metrics_of(busy.state_dir)
    with LongCalls(busy, 2):
        wait_for_rows(busy, "state = 'admitted'", 2)
        busy.kill()
    busy.start()
    busy.wait_ready()
    assert close_unanswered(busy, max_open_s=600) == 2
    with ledger_of(busy.state_dir) as ledger:
        assert ledger.execute("SELECT count(*) FROM request WHERE state = 'lost'").fetchone() == (2,)
        assert verify(ledger, time.time_ns(), max_open_s=0).discrepancies == []
    after = metrics_of(busy.state_dir)
    assert all(after[series] >= value for series, value in before.items())
    assert Client(busy, "grpc").send({"text_input": TEXT, "max_tokens": 2}).error is None


def test_ledger_verify_finds_rows_changed_from_outside(busy):
    def add_to_cost(nano_usd):
        with sqlite3.connect(busy.state_dir / FILE_NAME) as connection:
            statement = "UPDATE request SET actual_nano_usd = actual_nano_usd + ? WHERE request_id = 'guided'"
            connection.execute(statement, (nano_usd,))

    def wrong_checks():
        with ledger_of(busy.state_dir) as ledger:
            return [finding.check for finding in verify(ledger, time.time_ns(), 600).discrepancies]

    add_to_cost(1)
    found = wrong_checks()
    add_to_cost(-1)
    assert found[0] == "llm_cost_usd_total"
    assert [check.startswith("usage of tenant") for check in found[1:]] == [True]
    assert wrong_checks() == []
