"""`llmstack serve` with a ledger that reaches its size budget: it serves on, and says so everywhere."""

import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.ledger.size_budget import EVENT_TYPE, KEPT_NS
from tests.integration.live_service import LiveService, wait_until
from tests.ledgers import NEW_ROW, admit, open_ledger, settlement

pytestmark = [pytest.mark.server, pytest.mark.slow]

NUM_ANSWERED = 10_000  # more than a mebibyte
REFUSED = "SELECT count(*) FROM request WHERE state = 'refused' AND canary = 0"


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Iterator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("budget"), environment={"LLMSTACK_MAX_LEDGER_MIB": "1"}) as service:
        yield service


def level_of(live: LiveService) -> str:
    return live.readiness()["ledger"]["level"]


def levels(live: LiveService) -> list[str]:
    found = live.rows("SELECT body FROM event WHERE type = ? ORDER BY sequence", EVENT_TYPE)
    return [json.loads(body)["data"]["level"] for (body,) in found]


def verified(live: LiveService) -> dict:
    done = live.llmstack("ledger", "verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_old_rejected_rows_become_counts_when_the_ledger_nears_its_budget(live):
    assert (level_of(live), live.rows(REFUSED)) == ("ok", [(0,)])
    ledger = open_ledger(live.state_dir)
    with closing(ledger.connection):
        for _ in range(50):
            ledger.record([[NEW_ROW._replace(code="invalid_input")] * 100], time.time_ns() - KEPT_NS - 1)
    wait_until(lambda: live.rows(REFUSED)[0][0] < 5_000)
    wait_until(lambda: live.readiness()["ledger"]["used_bytes"] < 0.8 * (1 << 20))
    assert live.is_ready()
    found = verified(live)
    assert found["num_only_counted"] == 5_000 - live.rows(REFUSED)[0][0] > 0


def test_a_ledger_full_of_answered_requests_is_over_its_budget_and_serves_on(live):
    ledger = open_ledger(live.state_dir, max_queue_size=100_000)
    with closing(ledger.connection):
        for _ in range(NUM_ANSWERED):
            ledger.settle([settlement(admit(ledger))])
    wait_until(lambda: level_of(live) == "over")
    assert live.is_ready()
    assert live.send_request(headers={"X-Tenant": "acme"}).status == 200
    assert levels(live)[-1] == "over"
    assert "the ledger is over its size budget of 1 MiB" in live.output()
    assert live.metric("llm_ledger_size_bytes") > live.metric("llm_ledger_budget_bytes") == 1 << 20
    settled = "SELECT count(*) FROM request WHERE state = 'settled' AND tenant = 'acme'"
    assert live.rows(settled)[0][0] == NUM_ANSWERED + 1


def test_over_the_budget_rejections_of_every_tenant_are_sampled(live):
    before = live.rows(REFUSED)[0][0]
    for _ in range(20):
        assert live.send_request(headers={"X-Tenant": "acme"}, max_tokens=0).code == "invalid_input"
    assert live.rows(REFUSED)[0][0] - before <= 2 * SAMPLE_ROWS  # they may fall into two minutes
    verified(live)
