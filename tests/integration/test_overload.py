"""Load shedding: a full queue rejects requests immediately, and requests that are never answered do not block it."""

import threading
from collections.abc import Iterator

import pytest
import tritonclient.grpc as triton_grpc

from tests.integration.client import start_call
from tests.integration.live_service import LiveService, wait_until

MAX_QUEUE_SIZE = 4
SLOW_TOKENS = 300

pytestmark = [pytest.mark.server, pytest.mark.slow]

NUM_OPEN = "SELECT count(*) FROM request WHERE canary = 0 AND state = 'admitted'"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service whose answers take as long as a test needs."""
    directory = tmp_path_factory.mktemp("overload")
    with LiveService(directory, "embedded", engine={"max_queue_size": MAX_QUEUE_SIZE}) as service:
        yield service


@pytest.fixture
def full_queue(live: LiveService) -> Iterator[list[threading.Thread]]:
    """As many slow requests in flight as the queue holds."""
    answers: list[int] = []

    def send() -> None:
        answers.append(live.send_request(max_tokens=SLOW_TOKENS, min_tokens=SLOW_TOKENS).status)

    threads = [threading.Thread(target=send) for _ in range(MAX_QUEUE_SIZE)]
    for thread in threads:
        thread.start()
    wait_until(lambda: live.rows(NUM_OPEN) == [(MAX_QUEUE_SIZE,)])
    yield threads
    for thread in threads:
        thread.join()
    assert answers == [200] * MAX_QUEUE_SIZE


def test_a_full_queue_rejects_requests_immediately_without_an_outage(live, full_queue):
    num_restarts = live.readiness()["restarts"]
    reply = live.send_request()
    assert (reply.status, reply.code) == (503, "overloaded")
    assert f"limit {MAX_QUEUE_SIZE} (max_queue_size)" in reply.error
    assert all(thread.is_alive() for thread in full_queue)  # the rejection did not wait for an answer
    for thread in full_queue:
        thread.join()
    assert live.send_request().status == 200
    assert live.readiness()["restarts"] == num_restarts
    assert live.metric('llm_requests_rejected_total{code="overloaded"}') >= 1


def test_cancelled_requests_do_not_fill_the_queue_permanently(live):
    with triton_grpc.InferenceServerClient(live.grpc_url) as client:
        calls = [start_call(client, live, SLOW_TOKENS) for _ in range(MAX_QUEUE_SIZE)]
        wait_until(lambda: live.rows(NUM_OPEN) == [(MAX_QUEUE_SIZE,)])
        for call in calls:
            call.cancel()
        num_restarts = live.readiness()["restarts"]
        wait_until(lambda: live.send_request().status == 200, 120)
    assert live.rows(NUM_OPEN) == [(MAX_QUEUE_SIZE,)]  # the rows stay open until the time limit
    assert live.readiness()["restarts"] == num_restarts
