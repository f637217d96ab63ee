"""Floods of one tenant beside a polite one: the polite one gets every answer, and the books agree."""

from collections.abc import Iterator

import pytest

from llm_policy.errors import Code
from llmstack.bench.flood_clients import ANSWERED, BROKEN, SENT, VANISHED
from llmstack.bench.tenant_flood import FLOODS, Flood, FloodedServer, TenantFloods
from llmstack.client.ensemble_client import ServerUrls
from tests.integration.live_service import LiveService

SECONDS = 4
NUM_CONNECTIONS = 64
SETTLED, CANCELLED = "settled", "cancelled"
# What a flooder may be refused with; the last one is a guide that was displaced or came too often.
DECLARED = {code.value for code in (Code.RATE_LIMITED, Code.OVERLOADED, Code.GUIDANCE_UNAVAILABLE)}

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("flooded"), "echo", {"LLMSTACK_REQUIRE_API_KEYS": "1"}) as service:
        yield service


@pytest.fixture(scope="module")
def floods(live: LiveService) -> TenantFloods:
    assert live.process is not None
    server = FloodedServer(ServerUrls(live.http_url, live.grpc_url), live.process.pid, live.state_dir)
    return TenantFloods(server, live.headers, "order", seconds=SECONDS, num_connections=NUM_CONNECTIONS, pause_s=0.01)


def stubs(live: LiveService) -> set[int]:
    return {child.pid for child in live.triton().children()}


@pytest.mark.parametrize("flood", FLOODS[1:], ids=lambda flood: flood.name.replace(" ", "-"))
def test_a_flood_keeps_a_polite_tenant_from_no_answer(live: LiveService, floods: TenantFloods, flood: Flood):
    before = stubs(live)
    found = floods.measure(flood)
    print(found)
    assert (found.failures, found.num_requests > 0) == ({}, True)
    assert set(found.rows) <= {SETTLED, CANCELLED} | DECLARED  # none is open
    for kind in flood.kinds:
        allowed = {SENT, ANSWERED} | DECLARED | ({BROKEN} if kind == VANISHED else set())
        assert found.answers[kind], kind
        assert set(found.answers[kind]) <= allowed, kind
    assert stubs(live) == before
    assert live.readiness()["restarts"] == 0
    done = live.llmstack("ledger", "verify")
    assert done.returncode == 0, done.stdout
