"""A live service with two stubs of each step: its ledger agrees exactly with its clients' tallies."""

import asyncio
import json
import os
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from llm_policy.ledger import alerts
from llm_policy.ledger.database import FILE_NAME, open_database, transaction
from llm_policy.ledger.outbox import FINANCE, READINESS
from llm_policy.release.release import Release
from llmstack.ledger.verification import verify
from tests.integration.alert_assertions import unique_event_data, webhook_environment
from tests.integration.live_ledger import ledger_of, metrics_of, two_stubs
from tests.integration.live_service import LiveService
from tests.integration.traffic import MAX_COST_USD, Tally, send_all
from tests.webhook_receiver import WebhookReceiver, new_secret

# `make test` sends 400, `make test-all` 1,000 too, and `make soak` 20,000 instead of these.
NUMBERS = (400, pytest.param(int(os.environ.get("LLMSTACK_SOAK_REQUESTS", "1000")), marks=pytest.mark.slow))
CONCURRENCY = 32
REJECTION_CODES = {
    *("missing_header", "invalid_header", "engine_hash_mismatch", "quantisation_mismatch", "invalid_input"),
    *("unknown_task", "unknown_schema", "unknown_guide_type", "schema_invalid", "schema_too_complex"),
    "token_budget_overrun",
}


class Soak(NamedTuple):
    """The state of a service that was stopped after its last answer, and what was observed of it from outside."""

    num_requests: int
    state_dir: Path
    log_path: Path
    tally: Tally
    memory: list[dict[str, int]]  # resident bytes by process, after each half
    per_second: float
    receivers: dict[str, WebhookReceiver]


def rss_by_process(live):
    parent = live.process
    return {
        f"{kind_of(process)} {process.pid}": process.memory_info().rss
        for process in (parent, *parent.children(recursive=True))
    }


def kind_of(process):
    is_compiler = any(argument.endswith("guidance.compile.worker") for argument in process.cmdline())
    return "guide-compiler" if is_compiler else process.name()


@pytest.fixture(scope="module", params=NUMBERS)
def soak(request, tmp_path_factory):
    """Requests in two halves through `llmstack serve`, with its canary, ledger maintenance and webhook delivery."""
    directory = tmp_path_factory.mktemp("soak")
    with WebhookReceiver(new_secret()) as readiness, WebhookReceiver(new_secret()) as finance:
        receivers = {READINESS: readiness, FINANCE: finance}
        environment = webhook_environment(directory, receivers)
        environment["LLMSTACK_MODEL_REPOSITORY"] = str(two_stubs(directory))
        with LiveService(
            directory / "service", environment=environment, thresholds={"max_cost_usd": MAX_COST_USD}
        ) as live:
            tally, memory = Tally(), []
            began = time.monotonic()
            for _ in range(2):
                manifest = Release.open(live.release_dir).manifest
                asyncio.run(send_all(live.grpc_url, manifest, request.param // 2 - 1, CONCURRENCY, tally))
                memory.append(rss_by_process(live))
            per_second = request.param / (time.monotonic() - began)
            live.process.terminate()
            assert live.process.wait(60) == 0
            yield Soak(request.param, live.state_dir, live.log_path, tally, memory, per_second, receivers)


def test_every_request_is_answered_or_rejected_with_a_declared_code(soak):
    tally = soak.tally
    assert tally.undeclared == []
    assert tally.num_requests == soak.num_requests
    assert 0.25 < sum(tally.codes.values()) / (sum(tally.codes.values()) + sum(tally.outcomes.values())) < 0.35
    assert set(tally.codes) == REJECTION_CODES


def only_counted(ledger):
    """The rejected rows by code that have no row, because their senders are not known."""
    return Counter(dict(ledger.execute("SELECT code, sum(num_rows) FROM rejection_count GROUP BY code")))


def test_every_row_that_clients_received_is_one_ledger_row_or_counted(soak):
    tally = soak.tally
    with ledger_of(soak.state_dir) as ledger:
        outcomes, codes = Counter(), Counter()
        for task, state, code, number in ledger.execute(
            "SELECT task, state, code, count(*) FROM request WHERE canary = 0 GROUP BY task, state, code"
        ):
            if state == "refused":
                codes[code] += number
            else:
                outcomes[task or "none", state] += number
        codes.update(only_counted(ledger))
        assert ledger.execute("SELECT count(DISTINCT boot_id) FROM request").fetchone() == (1,)
    assert outcomes == tally.outcomes
    assert codes == tally.codes


def test_tokens_and_money_agree_to_the_nano_dollar(soak):
    tally = soak.tally
    with ledger_of(soak.state_dir) as ledger:
        assert ledger.execute(
            "SELECT sum(num_prompt_tokens), sum(num_completion_tokens), sum(actual_nano_usd) FROM request "
            "WHERE state = 'settled' AND canary = 0"
        ).fetchone() == (tally.tokens_in, tally.tokens_out, tally.cost_nano_usd)
    values = metrics_of(soak.state_dir)
    assert values["llm_tokens_in_total", ()] == tally.tokens_in
    assert values["llm_tokens_out_total", ()] == tally.tokens_out
    assert round(values["llm_cost_usd_total", ()] * 1e9) == tally.cost_nano_usd


def test_the_metrics_agree_with_what_clients_received(soak):
    tally = soak.tally
    values = metrics_of(soak.state_dir)
    for (task, outcome), number in tally.outcomes.items():
        assert values["llm_requests_total", (("outcome", outcome), ("task", task))] == number
    rejected = {
        dict(labels)["code"]: value for (name, labels), value in values.items() if name == "llm_requests_rejected_total"
    }
    assert {code: number for code, number in rejected.items() if number} == tally.codes
    assert values["llm_schema_violations_total", ()] == tally.flags["schema_violation"]
    assert values["llm_alerts_total", (("rule", "cost"),)] == tally.flags["cost_breach"]
    num_settled = sum(tally.outcomes.values())
    assert values["llm_queue_delay_us_count", ()] == values["llm_time_to_first_token_us_count", ()] == num_settled
    assert values["llm_policy_overhead_us_count", (("step", "preprocess"),)] == tally.num_requests


def test_every_breach_is_in_an_alert_after_its_window_is_closed(soak):
    tally = soak.tally
    with closing(open_database(soak.state_dir / FILE_NAME)) as connection:
        with transaction(connection):
            alerts.close_due_windows(connection, time.time_ns() + 2 * alerts.WINDOW_NS)
        reported, costly = Counter(), Counter()
        for endpoint, body in connection.execute(
            "SELECT endpoint, body FROM event JOIN delivery ON event_sequence = sequence"
        ):
            data = json.loads(body)["data"]
            reported[endpoint, data["rule"]] += data["count"]
            costly.update(request["request_id"] for request in data.get("requests", ()))
    assert reported == {
        ("readiness", "cost"): tally.flags["cost_breach"],
        ("finance", "cost"): tally.flags["cost_breach"],
        ("readiness", "schema_violation"): tally.flags["schema_violation"],
    }
    assert costly == +tally.costly
    assert 0.04 < (tally.flags["cost_breach"] + tally.flags["schema_violation"]) / soak.num_requests < 0.06


def test_webhooks_received_exactly_the_events_recorded_as_delivered(soak):
    with ledger_of(soak.state_dir) as ledger:
        delivered = ledger.execute(
            "SELECT endpoint, id FROM event JOIN delivery ON event_sequence = sequence WHERE state = 'delivered'"
        ).fetchall()
    for name, receiver in soak.receivers.items():
        assert unique_event_data(receiver)
        assert set(receiver.ids) == {event_id for endpoint, event_id in delivered if endpoint == name}


def test_ledger_verify_finds_no_discrepancy(soak):
    with ledger_of(soak.state_dir) as ledger:
        result = verify(ledger, time.time_ns(), max_open_s=0)
    assert result.discrepancies == []


def test_both_stubs_of_each_step_served_requests(soak):
    num_stubs = 2 + 2 + 1  # of preprocess, of postprocess, of ensemble_stream
    assert len(list((soak.state_dir / "metrics").glob("histogram_*.db"))) == num_stubs


@pytest.mark.slow
@pytest.mark.parametrize("soak", NUMBERS[1:], indirect=True)
def test_no_process_grows_with_the_requests(soak):
    # The first half fills caches; in a short run they are not full after it.
    max_growth = 0.05 if soak.num_requests >= 20_000 else 0.10
    first, second = soak.memory
    print(f"\n{soak.tally.num_requests} requests, {soak.per_second:.0f}/s; MiB after each half:")
    for name in first:
        print(f"  {name}: {first[name] / 2**20:.1f} {second[name] / 2**20:.1f} ({second[name] / first[name] - 1:+.1%})")
    assert set(first) == set(second)
    # A compiler that had no guide in the first half grows to the size of the others with its first one.
    compilers = [size for name, size in first.items() if name.startswith("guide-compiler")]
    before = {name: max(compilers) if name.startswith("guide-compiler") else size for name, size in first.items()}
    assert all(second[name] <= before[name] * (1 + max_growth) for name in first)


def test_each_row_has_one_line_in_the_log_without_its_prompt(soak):
    tally = soak.tally
    lines = [json.loads(line) for line in soak.log_path.read_text().splitlines() if line.startswith('{"')]
    requests = [line for line in lines if line.get("event") == "request" and not line["canary"]]
    assert len(requests) == sum(tally.codes.values()) + sum(tally.outcomes.values())
    assert Counter(line["code"] for line in requests if line["outcome"] == "refused") == tally.codes
    assert all({"request_id", "trace_id", "tenant", "schema_id", "time", "ledger_id"} <= set(line) for line in requests)
    with ledger_of(soak.log_path.parent) as ledger:
        written = {row_id for (row_id,) in ledger.execute("SELECT id FROM request WHERE canary = 0")}
        num_counted = only_counted(ledger).total()
        num_deleted = len({line["ledger_id"] for line in requests} - written - {None})  # late rejections
    assert num_counted == sum(line["ledger_id"] is None for line in requests) + num_deleted > 0
    assert written <= {line["ledger_id"] for line in requests}
    assert "Lovelace" not in soak.log_path.read_text()
