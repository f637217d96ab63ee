"""Whatever a webhook does, no request waits for it, and in the end every event has arrived."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_policy.outbox import FINANCE, READINESS
from llmstack.events.endpoint import secret_variable, url_variable
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import DEAR_FROM, Load
from tests.webhook_receiver import Behaviour, WebhookReceiver, _Handler, answer, hang, new_secret, reset, write_secrets

NUM_REQUESTS = 400
# The medians of two equal runs differ by some 20 % on a quiet machine and by far more on a busy one.
NOISE = 3

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture
def elsewhere() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(new_secret()) as receiver:
        yield receiver


def slowly(handler: _Handler) -> None:
    handler.receiver.released.wait(2)
    answer(200)(handler)


def test_no_request_is_slower_and_no_event_is_lost_whatever_a_webhook_does(tmp_path, elsewhere):
    with LiveService(tmp_path / "without", thresholds=DEAR_FROM) as live:
        median_without_s = median_duration_s(live, lambda: True)
    with WebhookReceiver(new_secret()) as readiness, WebhookReceiver(new_secret()) as finance:
        receivers = {READINESS: readiness, FINANCE: finance}
        for receiver in receivers.values():
            receiver.plan = troubles(elsewhere)
        environment = webhook_environment(tmp_path, receivers)
        with LiveService(tmp_path / "with", environment=environment, thresholds=DEAR_FROM) as live:
            median_with_s = median_duration_s(live, lambda: not any(each.plan for each in receivers.values()))
            print(f"\nmedian {median_without_s * 1e3:.1f} ms without webhooks, {median_with_s * 1e3:.1f} ms with")
            assert median_with_s < NOISE * median_without_s
            wait_until(lambda: is_delivered_or_replayed(live), 200, live.output)
            for name, receiver in receivers.items():
                assert set(receiver.ids) == event_ids(live, name)
                assert receiver.forgeries == []
    assert elsewhere.received == []


def troubles(elsewhere: WebhookReceiver) -> list[Behaviour]:
    """In turn: an error, a slow success, a reset, a redirect to another host, no answer at all, and a farewell."""
    return [answer(500), slowly, reset, answer(302, location=elsewhere.url), hang, answer(410)]


def webhook_environment(directory: Path, receivers: dict[str, WebhookReceiver]) -> dict[str, str]:
    environment = {}
    for name, receiver in receivers.items():
        environment[url_variable(name)] = receiver.url
        environment[secret_variable(name)] = str(write_secrets(directory / f"{name}.secret", receiver.secret))
    return environment


def median_duration_s(live: LiveService, is_over: Callable[[], bool]) -> float:
    """The median of at least `NUM_REQUESTS` answers, which go on until `is_over`."""
    with Load(live, num_clients=4, pause_s=0.05) as load:
        wait_until(lambda: len(load.asked) >= NUM_REQUESTS and is_over(), 300, live.output)
    assert all(asked.reply.status == 200 for asked in load.asked)
    return statistics.median(asked.duration_s for asked in load.asked)


def is_delivered_or_replayed(live: LiveService) -> bool:
    """Whether all is delivered; where a webhook said 410, an operator enables it again."""
    states = live.rows("SELECT endpoint, state, count(*) FROM delivery GROUP BY endpoint, state")
    for endpoint in {endpoint for endpoint, state, _ in states if state == "failed"}:
        live.llmstack("events", "replay", "--endpoint", endpoint)
    return {state for _, state, _ in states} == {"delivered"}


def event_ids(live: LiveService, endpoint: str) -> set[str]:
    query = "SELECT id FROM event JOIN delivery ON event_sequence = sequence WHERE endpoint = ?"
    return {event_id for (event_id,) in live.rows(query, endpoint)}
