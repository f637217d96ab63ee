"""Live servers with the committed release on free ports, started at first use and stopped by their process id."""

from collections.abc import Iterator

import pytest

from llm_policy.ledger.outbox import READINESS
from llmstack.server.process import TritonServer
from tests.integration.alert_assertions import webhook_environment
from tests.integration.live_service import MAX_QUEUE_SIZE, START_TIMEOUT_S, LiveService, wait_until
from tests.integration.trace_collector import TraceCollector
from tests.webhook_receiver import WebhookReceiver, new_secret


@pytest.fixture(scope="session")
def server() -> Iterator[TritonServer]:
    """The whole stack with the embedded engine, without a parent process."""
    with TritonServer(engine="embedded") as live:
        yield live


@pytest.fixture(scope="session")
def readiness_receiver() -> Iterator[WebhookReceiver]:
    """Receives the alerts of `echo_service`."""
    with WebhookReceiver(new_secret()) as receiver:
        yield receiver


@pytest.fixture(scope="session")
def trace_collector() -> Iterator[TraceCollector]:
    """Receives the spans of `echo_service`."""
    with TraceCollector() as collector:
        yield collector


@pytest.fixture(scope="session")
def first_documents() -> list[dict]:
    """The documents of /readyz until `echo_service` was ready for the first time."""
    return []


@pytest.fixture(scope="session")
def shared_echo_service(
    tmp_path_factory: pytest.TempPathFactory,
    readiness_receiver: WebhookReceiver,
    trace_collector: TraceCollector,
    first_documents: list[dict],
) -> Iterator[LiveService]:
    directory = tmp_path_factory.mktemp("echo-service")
    environment = webhook_environment(directory, {READINESS: readiness_receiver})
    environment["LLMSTACK_TRACE_URL"] = trace_collector.url
    # On a busy machine, requests wait; a queue delay is no breach here, so that the counts are the tests' own.
    live = LiveService(directory, environment=environment, thresholds={"max_queue_delay_us": 60_000_000})

    def is_ready() -> bool:
        document = live.readiness()
        first_documents.append(document)
        return document["ready"]

    live.start()
    try:
        wait_until(is_ready, START_TIMEOUT_S, live.output)
        yield live
    finally:
        live.kill_all()


@pytest.fixture(scope="session")
def shared_embedded_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    # The longest answers of the tests have to end within the exit timeout on a busy machine, too.
    environment = {"LLMSTACK_EXIT_TIMEOUT_S": "120"}
    directory = tmp_path_factory.mktemp("embedded-service")
    with LiveService(directory, "embedded", environment, engine={"max_queue_size": MAX_QUEUE_SIZE}) as live:
        yield live


@pytest.fixture
def echo_service(shared_echo_service: LiveService) -> LiveService:
    """`llmstack serve` with the no-op engine, ready; a test may kill any of its processes."""
    return make_ready(shared_echo_service)


@pytest.fixture
def embedded_service(shared_embedded_service: LiveService) -> LiveService:
    """`llmstack serve` with the embedded engine and a queue of `MAX_QUEUE_SIZE`, ready; a test may end it."""
    return make_ready(shared_embedded_service)


def make_ready(live: LiveService) -> LiveService:
    """Start a service that has ended, and wait until it is ready."""
    if live.process is None or live.process.poll() is not None:
        live.start()
    wait_until(live.is_ready, START_TIMEOUT_S, live.output)
    return live
