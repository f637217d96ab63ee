"""What one canary shows, and which failures are no fault of the server."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_policy.errors import LedgerUnavailable
from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llm_policy.rules.headers import CANARY_TENANT
from llmstack.server.command import DECOUPLED, STREAM_MODEL
from llmstack.server.ports import FREE_PORTS, Ports
from llmstack.server.process import TritonServer
from llmstack.supervision.canary import MAX_STALL_S, Canary, ProbeStatus, warm_up_inputs
from llmstack.supervision.triton_statistics import StatisticsReader
from tests.releases import SCHEMAS, change_manifest, write_release
from tests.unit.supervision.scripted_triton import ScriptedTriton

LONG_TIMEOUT_S, SHORT_TIMEOUT_S = 30.0, 0.2


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with ScriptedTriton() as scripted:
        yield scripted


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return write_release(tmp_path / "release", schemas={name: f"schemas/{name}.json" for name in SCHEMAS})


@pytest.fixture
def server(triton: ScriptedTriton, release: Release) -> TritonServer:
    """The server as the canary sees it; it was never started."""
    return TritonServer(release.directory, ports=Ports(http=triton.port))


class InFlight:
    """Whether the ledger has clients' requests in flight."""

    def __init__(self) -> None:
        self.has_requests = True

    def __call__(self) -> bool:
        return self.has_requests


class Progress:
    """What the engine process is said to do."""

    def __init__(self, *, is_busy: bool = False, is_settled: bool = True) -> None:
        self.is_busy, self.is_settled = is_busy, is_settled


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight()


@pytest.fixture
def canary(
    triton: ScriptedTriton, server: TritonServer, release: Release, in_flight: InFlight, clock: Clock
) -> Iterator[Canary]:
    triton.body = answer(release)
    made = make_canary(server, release, in_flight, clock=clock)
    yield made
    made.close()


def make_canary(
    server: TritonServer,
    release: Release,
    in_flight: InFlight,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Canary:
    statistics = StatisticsReader(server.http_url, {})
    return Canary(server, release, statistics, in_flight, progress, clock, probe_timeout_s=LONG_TIMEOUT_S)


def answer(release: Release, **changes: list) -> dict:
    outputs = {
        "engine_hash": [release.manifest.engine.hash],
        "num_output_tokens": [8],
        "resolved_schema_id": [min(SCHEMAS)],
        **changes,
    }
    return {"outputs": [{"name": name, "data": data} for name, data in outputs.items()]}


def test_a_guided_answer_of_this_engine_is_healthy(canary, triton):
    probe = canary.probe(LONG_TIMEOUT_S)
    assert (probe.status, probe.is_serving, probe.result.is_ok) == (ProbeStatus.HEALTHY, True, True)
    _, inputs = triton.requests[0]
    assert inputs["schema_id"] == min(SCHEMAS)


def test_a_canary_sends_its_tenant_and_token(canary, triton, server):
    canary.probe(LONG_TIMEOUT_S)
    headers, _ = triton.requests[0]
    assert (headers["x-tenant"], headers["x-canary-token"]) == (CANARY_TENANT, server.canary_token)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"engine_hash": ["sha256:other"]}, "engine_hash is ['sha256:other']"),
        ({"num_output_tokens": [0]}, "the engine returned no token"),
        ({"resolved_schema_id": [""]}, "not guided by the schema label"),
    ],
)
def test_an_unexpected_answer_is_a_failure(canary, triton, release, changes, error):
    triton.body = answer(release, **changes)
    probe = canary.probe(LONG_TIMEOUT_S)
    assert (probe.status, probe.is_serving) == (ProbeStatus.FAILED, False)
    assert error in probe.result.error


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"outputs": 3}', b"{}"])
def test_garbage_is_a_failure(canary, triton, body):
    triton.body = body
    assert canary.probe(LONG_TIMEOUT_S).status is ProbeStatus.FAILED


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("in ensemble 'ensemble', overloaded: 64 requests wait", ProbeStatus.INCONCLUSIVE),
        ("draining: this server is being stopped", ProbeStatus.INCONCLUSIVE),
        (f"in ensemble 'ensemble', {LedgerUnavailable('disk is full')}", ProbeStatus.INCONCLUSIVE),
        ("in ensemble 'ensemble', internal: reference 12", ProbeStatus.FAILED),
        ("something overloaded: no code at the beginning", ProbeStatus.FAILED),
        ("in ensemble 'ensemble', Stub process 'preprocess_0_0' is not healthy.", ProbeStatus.DEAD),
    ],
)
def test_an_error_is_classified_by_its_code(canary, triton, text, status):
    triton.status, triton.body = 503, {"error": text}
    probe = canary.probe(LONG_TIMEOUT_S)
    assert (probe.status, probe.is_serving) == (status, False)
    assert probe.result.error == text


def test_a_timeout_of_an_idle_server_is_a_failure(canary, triton):
    triton.hangs = True
    triton.calls = {"preprocess": (1, 0), "ensemble": (0, 0)}  # the canary itself
    probe = canary.probe(SHORT_TIMEOUT_S)
    assert probe.status is ProbeStatus.FAILED
    assert probe.result.error == "no answer in time"


def test_canaries_that_hang_do_not_make_the_next_inconclusive(canary, triton):
    triton.hangs = True
    for number in (1, 2, 3):
        triton.calls = {"preprocess": (number, 0), "ensemble": (0, 0)}
        assert canary.probe(SHORT_TIMEOUT_S).status is ProbeStatus.FAILED


def test_a_timeout_behind_other_requests_is_inconclusive(canary, triton):
    triton.hangs = True
    triton.calls = {"preprocess": (9, 0), "ensemble": (0, 0)}
    probe = canary.probe(SHORT_TIMEOUT_S)
    assert (probe.status, probe.is_serving) == (ProbeStatus.INCONCLUSIVE, False)


def test_dead_requests_that_triton_still_counts_do_not_make_a_timeout_inconclusive(canary, triton, in_flight):
    triton.hangs, in_flight.has_requests = True, False
    triton.calls = {"preprocess": (9, 0), "ensemble": (0, 0)}
    assert canary.probe(SHORT_TIMEOUT_S).status is ProbeStatus.FAILED


def test_a_timeout_of_an_engine_without_progress_is_a_failure(canary, triton, clock):
    triton.hangs = True
    triton.calls = {"preprocess": (9, 0), "ensemble": (0, 0)}
    clock.now_s += MAX_STALL_S + 1
    assert canary.probe(SHORT_TIMEOUT_S).status is ProbeStatus.FAILED


def test_clients_requests_that_succeed_show_that_the_server_serves(canary, triton, clock):
    canary.probe(LONG_TIMEOUT_S)
    triton.hangs = True
    clock.now_s += MAX_STALL_S + 1
    triton.calls = {"preprocess": (9, 0), "ensemble": (5, 0)}
    probe = canary.probe(SHORT_TIMEOUT_S)
    assert (probe.status, probe.is_serving, probe.result.is_ok) == (ProbeStatus.INCONCLUSIVE, True, False)


@pytest.mark.parametrize(("is_busy", "status"), [(True, ProbeStatus.INCONCLUSIVE), (False, ProbeStatus.FAILED)])
def test_a_timeout_in_front_of_an_engine_that_steps_is_inconclusive(server, release, triton, is_busy, status):
    canary = make_canary(server, release, InFlight(), Progress(is_busy=is_busy))
    triton.hangs = True
    assert canary.probe(SHORT_TIMEOUT_S).status is status
    canary.close()


@pytest.mark.parametrize(("is_settled", "status"), [(True, ProbeStatus.FAILED), (False, ProbeStatus.INCONCLUSIVE)])
def test_a_missing_engine_process_is_a_fault_of_the_server_only_if_it_serves(
    server, release, triton, is_settled, status
):
    canary = make_canary(server, release, InFlight(), Progress(is_settled=is_settled))
    triton.status, triton.body = 503, {"error": "in ensemble 'ensemble', engine_unavailable: it does not answer"}
    assert canary.probe(LONG_TIMEOUT_S).status is status
    canary.close()


def test_the_model_of_a_dead_stub_is_named(canary, triton):
    triton.status, triton.body = 400, {"error": "Stub process 'preprocess_0_0' is not healthy."}
    assert canary.probe(LONG_TIMEOUT_S).models == ("preprocess",)


def test_a_model_that_executes_nothing_while_a_request_waits_for_it_is_named(canary, triton):
    triton.hangs, triton.hung_models = True, {"postprocess"}
    canary._probe_timeout_s = SHORT_TIMEOUT_S
    triton.calls = {"preprocess": (9, 0), "postprocess": (4, 0), "ensemble": (0, 0)}
    probe = canary.probe(SHORT_TIMEOUT_S)
    assert (probe.status, probe.models) == (ProbeStatus.DEAD, ("postprocess",))


def test_an_unreachable_server_is_a_failure(release):
    canary = make_canary(TritonServer(release.directory, ports=FREE_PORTS.choose("127.0.0.1")), release, InFlight())
    probe = canary.probe(LONG_TIMEOUT_S)
    assert probe.status is ProbeStatus.FAILED
    assert probe.result.error
    canary.close()


def test_every_task_and_schema_is_warmed_up(release):
    inputs = warm_up_inputs(release).values()
    assert {each.get("task") for each in inputs} - {None} == set(TASKS)
    assert {each.get("schema_id") for each in inputs} - {None} == set(SCHEMAS)


def test_without_schemas_the_canary_is_guided_by_any_json(tmp_path, triton, server):
    change_manifest(write_release(tmp_path / "bare").directory, schemas={})
    bare = Release.open(tmp_path / "bare")
    triton.body = answer(bare)
    canary = make_canary(server, bare, InFlight())
    assert canary.probe(LONG_TIMEOUT_S).status is ProbeStatus.HEALTHY
    assert triton.requests[0][1]["guided_decoding_guide_type"] == "json"
    canary.close()


@pytest.fixture
def stream_canary(triton: ScriptedTriton, release: Release, in_flight: InFlight, clock: Clock) -> Iterator[Canary]:
    """The canary before an engine that only streams."""
    server = TritonServer(release.directory, "tensorrtllm", tensorrt_llm_mode=DECOUPLED, ports=Ports(http=triton.port))
    triton.stream_body = {
        "engine_hash": release.manifest.engine.hash,
        "num_output_tokens": 8,
        "resolved_schema_id": min(SCHEMAS),
    }
    statistics = StatisticsReader(server.http_url, {}, server.entry_model)
    made = Canary(server, release, statistics, in_flight, None, clock, probe_timeout_s=LONG_TIMEOUT_S)
    yield made
    made.close()


def test_before_an_engine_that_only_streams_the_canary_asks_for_one_response_of_a_stream(stream_canary, triton):
    assert stream_canary.probe(LONG_TIMEOUT_S).status is ProbeStatus.HEALTHY
    (_, body), *_ = triton.requests
    assert (body["stream"], body["schema_id"], body["X-Tenant"]) == (False, min(SCHEMAS), CANARY_TENANT)
    triton.stream_body = {**triton.stream_body, "engine_hash": "sha256:other"}
    assert stream_canary.probe(LONG_TIMEOUT_S).status is ProbeStatus.FAILED


def test_a_timeout_of_such_an_engine_is_inconclusive_while_the_ledger_has_requests_in_flight(
    stream_canary, triton, in_flight, clock
):
    triton.hangs = True
    assert stream_canary.probe(SHORT_TIMEOUT_S).status is ProbeStatus.INCONCLUSIVE
    in_flight.has_requests = False
    assert stream_canary.probe(SHORT_TIMEOUT_S).status is ProbeStatus.FAILED
    triton.calls = {"tensorrt_llm": (3, 0)}
    assert stream_canary.probe(SHORT_TIMEOUT_S).is_serving


def test_a_model_of_streams_that_hangs_is_named(stream_canary, triton):
    triton.hangs, triton.hung_models = True, {STREAM_MODEL}
    stream_canary._probe_timeout_s = SHORT_TIMEOUT_S
    probe = stream_canary.probe(SHORT_TIMEOUT_S)
    assert (probe.status, probe.models) == (ProbeStatus.DEAD, (STREAM_MODEL,))
