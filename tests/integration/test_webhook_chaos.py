"""Failing webhooks delay no request, leave the ledger consistent, and receive every event in the end."""

from collections.abc import Iterable, Iterator

import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from tests.integration.alert_assertions import check_cost_breaches, check_ledger, webhook_environment
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import COSTLY_THRESHOLDS, Load
from tests.soak import ONLY_IN_SOAK
from tests.webhook_receiver import Behaviour, RequestHandler, WebhookReceiver, hang, new_secret, reset, respond

NUM_REQUESTS = 250
SLOW_RESPONSE_S = 8.0

pytestmark = [
    ONLY_IN_SOAK,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(1_200),
]  # its retries take minutes


@pytest.fixture
def redirect_target() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(new_secret()) as receiver:
        yield receiver


def respond_slowly(handler: RequestHandler) -> None:
    handler.receiver.closing.wait(SLOW_RESPONSE_S)
    respond(200)(handler)


def test_failing_webhooks_delay_no_request_and_lose_no_event(tmp_path, redirect_target):
    with WebhookReceiver(new_secret()) as readiness, WebhookReceiver(new_secret()) as finance:
        receivers = {READINESS: readiness, FINANCE: finance}
        environment = webhook_environment(tmp_path, receivers)
        with LiveService(tmp_path / "service", environment=environment, thresholds=COSTLY_THRESHOLDS) as live:
            with Load(live, num_clients=4, pause_s=0.2, costly_every=1) as load:
                check_requests_wait_for_no_webhook(live, load, receivers.values())
                for receiver in receivers.values():
                    receiver.plan = failures(redirect_target)
                wait_until(lambda: all(len(each.plan) < 2 for each in receivers.values()), 400, live.output)
            assert all("cost_breach" in sent.reply.outputs["flags"] for sent in load.sent)
            wait_until(lambda: are_events_delivered_after_replays(live), 400, live.output)
            for name, receiver in receivers.items():
                assert set(receiver.ids) == event_ids(live, name)
            check_cost_breaches(live, load, receivers)
            live.process.terminate()
            assert live.process.wait(120) == 0
            check_ledger(live, load)
    assert redirect_target.received == []


def check_requests_wait_for_no_webhook(live: LiveService, load: Load, receivers: Iterable[WebhookReceiver]) -> None:
    """Check that breaching requests are answered while no receiver responds.

    A request that waited for an attempt would take 10 s, and `NUM_REQUESTS` of them longer than the timeout.
    """
    for receiver in receivers:
        receiver.plan = [hang] * 1_000
    wait_until(lambda: all(receiver.received for receiver in receivers), 300, live.output)
    num_answered = len(load.answered)
    wait_until(lambda: len(load.answered) >= num_answered + NUM_REQUESTS, 300, live.output)
    assert live.rows("SELECT count(*) FROM delivery WHERE state = 'delivered'") == [(0,)]


def failures(redirect_target: WebhookReceiver) -> list[Behaviour]:
    """In this order: an error, a reset, a redirect, no response, 410 Gone, a slow success."""
    return [respond(500), reset, respond(302, location=redirect_target.url), hang, respond(410), respond_slowly]


def are_events_delivered_after_replays(live: LiveService) -> bool:
    """Whether all events are delivered. Replays the endpoints that answered 410, as an operator would."""
    states = live.rows("SELECT endpoint, state, count(*) FROM delivery GROUP BY endpoint, state")
    for endpoint in {endpoint for endpoint, state, _ in states if state == "failed"}:
        live.llmstack("events", "replay", "--endpoint", endpoint)
    return {state for _, state, _ in states} == {"delivered"} and live.rows("SELECT 1 FROM alert_window") == []


def event_ids(live: LiveService, endpoint: str) -> set[str]:
    query = "SELECT id FROM event JOIN delivery ON event_sequence = sequence WHERE endpoint = ?"
    return {event_id for (event_id,) in live.rows(query, endpoint)}
