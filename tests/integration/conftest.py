"""Live servers with the committed release on free ports, started at first use and stopped by their process id."""

from collections.abc import Iterator

import pytest

from engine_process.engines.echo import TOKEN_INTERVAL
from llm_policy.ledger.outbox import READINESS
from llmstack.server.process import TritonServer
from tests.integration.alert_assertions import webhook_environment
from tests.integration.live_ledger import release_with
from tests.integration.live_service import START_TIMEOUT_S, LiveService, wait_until
from tests.integration.trace_collector import TraceCollector
from tests.webhook_receiver import WebhookReceiver, new_secret

ADMIN_KEY = "k" * 40
UNREACHABLE_PROXIES = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), "http://127.0.0.1:1")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """`llmstack serve` with the embedded engine and the OpenAI API.

    It prints its log, has an administrative key from a file, and a proxy in its environment that does not answer.
    """
    directory = tmp_path_factory.mktemp("server")
    (directory / "key").write_text(ADMIN_KEY + "\n")
    environment = {
        **UNREACHABLE_PROXIES,
        "LLMSTACK_ADMIN_KEY_FILE": str(directory / "key"),
        # The longest answers of the tests have to end within the exit timeout on a busy machine, too.
        "LLMSTACK_EXIT_TIMEOUT_S": "120",
    }
    with LiveService(directory, "embedded", environment, "--verbose", serves_openai=True) as live:
        yield live


@pytest.fixture(scope="session")
def paced_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server without a parent process, whose no-op engine makes 50 tokens per second.

    Its queue has two places, and it rejects requests that could cost more than 0.001 dollars.
    """
    directory = tmp_path_factory.mktemp("paced")
    release = release_with(
        directory, engine={"max_queue_size": 2}, thresholds={"max_cost_usd": 0.001}, on_cost_breach="reject"
    )
    with TritonServer(release, "echo", {TOKEN_INTERVAL: "20"}, state_dir=directory / "state", exit_timeout_s=2) as live:
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
    environment["LLMSTACK_METRIC_TENANTS"] = "acme,beta"
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


@pytest.fixture
def echo_service(shared_echo_service: LiveService) -> LiveService:
    """`llmstack serve` with the no-op engine, ready; a test may kill any of its processes."""
    return make_ready(shared_echo_service)


@pytest.fixture
def embedded_service(server: LiveService) -> LiveService:
    """`server`, ready; a test may kill its processes, and one that is marked `ends_server` may end it."""
    return make_ready(server)


def make_ready(live: LiveService) -> LiveService:
    """Start a service that has ended, and wait until it is ready."""
    if live.process is None or live.process.poll() is not None:
        live.start()
    wait_until(live.is_ready, START_TIMEOUT_S, live.output)
    return live
