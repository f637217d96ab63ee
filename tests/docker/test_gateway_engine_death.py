"""An engine process that dies behind the gateway: its streams end, the other streams of the connection go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb

from llm_policy.errors import Code, find_code
from llmstack.gateway.backend import Backend
from llmstack.gateway.configuration import Limits
from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway
from tests.docker.test_attacks import channel
from tests.docker.test_gateway_streams import VERSIONS, GrpcStream, message_of, sse, states
from tests.integration.live_service import HOST, LiveService, wait_until

pytestmark = pytest.mark.slow

NUM_STREAMS = 6
# Ten seconds of work: the streams of the other server run for as long as everything here takes.
NUM_TOKENS = 500
ENVIRONMENT = {"LLMSTACK_ENGINE_OPTIONS": "token_interval_ms=20"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LiveService]]:
    """Two servers of one release. The gateway sends a stream to the one with fewer."""
    require_programs("haproxy", "openssl", "curl")
    with contextlib.ExitStack() as started:
        directories = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
        yield [started.enter_context(LiveService(directory, "echo", ENVIRONMENT)) for directory in directories]


@contextlib.contextmanager
def gateway_of(pair: list[LiveService], directory: Path, max_client_in_flight: int) -> Iterator[RunningGateway]:
    backends = [Backend(HOST, live.http_port, live.grpc_port, live.ready_port) for live in pair]
    limits = Limits(max_client_in_flight=max_client_in_flight)
    with RunningGateway(directory, backends, limits=limits, ready_path="/readyz") as gateway:
        yield gateway


def kill_engine(live: LiveService) -> None:
    psutil.Process(live.readiness()["engine_process"]["pid"]).kill()


def wait_until_restarted(live: LiveService, gateway: RunningGateway) -> None:
    wait_until(lambda: live.readiness()["engine_process"]["running"] == 0 and live.is_ready(), 120, live.output)
    gateway.wait_until(lambda: gateway.num_servers_up() == 2)


def error_of(stream: GrpcStream) -> str:
    """Read to the end of a request that fails in mid-stream: the text of its only error."""
    while True:
        answer = pb.ModelStreamInferResponse.FromString(next(stream.call))
        if answer.error_message:
            return answer.error_message


def check_cut_row(live: LiveService, tenant: str) -> None:
    query = "SELECT state, code, num_completion_tokens FROM request WHERE tenant = ? ORDER BY id"
    wait_until(lambda: "admitted" not in states(live, tenant))
    state, code, num_tokens = live.rows(query, tenant)[0]
    assert (state, code) == ("cancelled", "engine_unavailable")
    assert 0 < num_tokens < NUM_TOKENS


def test_the_other_grpc_streams_of_the_connection_go_on_and_the_ended_ones_take_the_next_request(
    pair: list[LiveService], tmp_path: Path
) -> None:
    dying, living = pair
    tenants = [f"grpc-{number}" for number in range(NUM_STREAMS)]
    # Each stream and its request count: the next request passes because the one that failed counts no longer.
    with gateway_of(pair, tmp_path, 2 * NUM_STREAMS) as gateway, channel(gateway) as opened:
        streams = {tenant: GrpcStream(opened, dying, tenant, message_of(NUM_TOKENS)) for tenant in tenants}
        for stream in streams.values():
            stream.read()
        cut = [tenant for tenant in tenants if states(dying, tenant)]
        assert 0 < len(cut) < NUM_STREAMS
        kill_engine(dying)
        for tenant in cut:
            assert find_code(error_of(streams[tenant])) is Code.ENGINE_UNAVAILABLE
            check_cut_row(dying, tenant)
        for tenant in set(tenants) - set(cut):
            assert streams[tenant].read_answer()[-1]["num_output_tokens"] == NUM_TOKENS
            assert states(living, tenant) == ["settled"]
        wait_until_restarted(dying, gateway)
        for stream in streams.values():
            stream.send(message_of(4))
            assert stream.read_answer()[-1]["num_output_tokens"] == 4
            stream.send(None)
            assert stream.call.code() is grpc.StatusCode.OK
        assert gateway.num_rejected() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_an_https_stream_ends_with_one_event_with_the_declared_error(
    pair: list[LiveService], tmp_path: Path, version: str
) -> None:
    dying, living = pair
    tenants = [f"https{version}-{number}" for number in range(2)]
    with gateway_of(pair, tmp_path, 2) as gateway, contextlib.ExitStack() as opened:
        streams = {tenant: opened.enter_context(sse(gateway, dying, tenant, NUM_TOKENS, version)) for tenant in tenants}
        for events in streams.values():
            next(events)
        (cut,) = (tenant for tenant in tenants if states(dying, tenant))
        (other,) = set(tenants) - {cut}
        kill_engine(dying)
        *pieces, last = streams[cut]
        assert not any("error" in piece or piece["is_last"] for piece in pieces)
        assert find_code(last["error"]) is Code.ENGINE_UNAVAILABLE
        check_cut_row(dying, cut)
        *_, last = streams[other]
        assert (last["is_last"], last["num_output_tokens"]) == (True, NUM_TOKENS)
        assert states(living, other) == ["settled"]
        wait_until_restarted(dying, gateway)
        with sse(gateway, dying, "next", 4, version) as following:
            assert list(following)[-1]["is_last"]
        paths = [line for line in gateway.log() if line["path"].endswith("/generate_stream")]
        assert {(line["status"], line["end"]) for line in paths} == {(200, "--")}
