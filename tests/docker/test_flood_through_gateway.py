"""A flood from one address and a polite tenant from others, as `llmstack bench tenants --gateway` measures them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_policy.errors import Code
from llmstack.bench.flood_clients import ANSWERED, BROKEN, REQUESTS, SENT, STREAMS, TOO_MANY, VANISHED
from llmstack.bench.measured_gateway import MeasuredGateway
from llmstack.bench.tenant_flood import GREEDY, Flood, FloodedServer, TenantFloods
from llmstack.client.ensemble_client import ServerUrls
from llmstack.gateway.configuration import Limits
from tests.docker.conftest import require_programs
from tests.integration.live_service import LiveService

SECONDS = 2
NUM_CONNECTIONS = 64  # of each kind: twice what one address may have in flight
KEY_PREFIX = "lsk_"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    require_programs("haproxy", "openssl")
    with LiveService(tmp_path_factory.mktemp("flooded"), "echo", {"LLMSTACK_REQUIRE_API_KEYS": "1"}) as service:
        yield service


@pytest.fixture(scope="module")
def gateway(live: LiveService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredGateway]:
    urls = ServerUrls(live.http_url, live.grpc_url)
    with MeasuredGateway(tmp_path_factory.mktemp("gateway"), urls, live.ready_port, Limits()) as running:
        yield running


@pytest.fixture(scope="module")
def floods(live: LiveService, gateway: MeasuredGateway) -> TenantFloods:
    assert live.process is not None
    server = FloodedServer(ServerUrls(live.http_url, live.grpc_url), live.process.pid, live.state_dir, gateway)
    return TenantFloods(server, live.headers, "order", seconds=SECONDS, num_connections=NUM_CONNECTIONS, pause_s=0.01)


@pytest.mark.parametrize("kind", [REQUESTS, STREAMS, VANISHED])
def test_the_gateway_refuses_what_one_address_floods_with_and_answers_the_others(
    floods: TenantFloods, gateway: MeasuredGateway, kind: str
):
    found = floods.measure(Flood(kind, GREEDY, (kind,)))
    assert (found.failures, found.num_requests > 0) == ({}, True)
    assert found.cores["gateway"] > 0
    # One address may have 32 requests in flight, so the gateway takes no more of these from any flood at once.
    if kind == REQUESTS:
        assert found.answers[kind][TOO_MANY] > 0
        assert found.rows["settled"] > 0
    declared = {Code.OVERLOADED.value, ANSWERED, BROKEN, SENT, TOO_MANY}
    assert set(found.answers[kind]) <= declared
    assert KEY_PREFIX not in gateway.log_path.read_text()
