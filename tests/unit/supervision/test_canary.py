"""What one canary proves, and which failures are no fault of the server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llm_policy.rules.headers import CANARY_TENANT
from llm_policy.steps.ledger_writer import LedgerUnavailable
from llmstack.server.ports import FREE_PORTS, Ports
from llmstack.server.process import TritonServer
from llmstack.supervision.canary import MAX_STALL_S, Canary, ProbeStatus, warm_up_inputs
from tests.releases import SCHEMAS, change_manifest, write_release
from tests.unit.supervision.scripted_triton import ScriptedTriton

IN_TIME_S, AT_ONCE_S = 30.0, 0.2


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
    """The server as the canary knows it; it was never started."""
    return TritonServer(release.directory, ports=Ports(http=triton.port))


class Others:
    """What the ledger knows of clients' calls."""

    def __init__(self) -> None:
        self.wait = True

    def __call__(self) -> bool:
        return self.wait


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def canary(
    triton: ScriptedTriton, server: TritonServer, release: Release, others: Others, clock: Clock
) -> Iterator[Canary]:
    triton.body = answer(release)
    made = Canary(server, release, others, clock)
    yield made
    made.close()


def answer(release: Release, **changes: list) -> dict:
    outputs = {
        "engine_hash": [release.manifest.engine.hash],
        "num_output_tokens": [8],
        "resolved_schema_id": [min(SCHEMAS)],
        **changes,
    }
    return {"outputs": [{"name": name, "data": data} for name, data in outputs.items()]}


def test_a_guided_answer_of_this_engine_is_a_proof(canary, triton):
    finding = canary.probe(IN_TIME_S)
    assert (finding.verdict, finding.is_proof, finding.result.is_ok) == (ProbeStatus.PROVEN, True, True)
    _, inputs = triton.requests[0]
    assert inputs["schema_id"] == min(SCHEMAS)


def test_it_is_known_by_its_tenant_and_token(canary, triton, server):
    canary.probe(IN_TIME_S)
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
def test_another_answer_than_the_ensembles_is_a_failure(canary, triton, release, changes, error):
    triton.body = answer(release, **changes)
    finding = canary.probe(IN_TIME_S)
    assert (finding.verdict, finding.is_proof) == (ProbeStatus.FAILED, False)
    assert error in finding.result.error


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"outputs": 3}', b"{}"])
def test_garbage_is_a_failure(canary, triton, body):
    triton.body = body
    assert canary.probe(IN_TIME_S).verdict is ProbeStatus.FAILED


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("in ensemble 'ensemble', overloaded: 64 requests wait", ProbeStatus.EXCUSED),
        ("draining: this server is being stopped", ProbeStatus.EXCUSED),
        (f"in ensemble 'ensemble', {LedgerUnavailable('disk is full')}", ProbeStatus.EXCUSED),
        ("in ensemble 'ensemble', internal: reference 12", ProbeStatus.FAILED),
        ("something overloaded: no code at the beginning", ProbeStatus.FAILED),
        ("in ensemble 'ensemble', Stub process 'preprocess_0_0' is not healthy.", ProbeStatus.DEAD),
    ],
)
def test_a_refusal_is_judged_by_its_code(canary, triton, text, verdict):
    triton.status, triton.body = 503, {"error": text}
    finding = canary.probe(IN_TIME_S)
    assert (finding.verdict, finding.is_proof) == (verdict, False)
    assert finding.result.error == text


def test_an_idle_server_that_does_not_answer_has_no_excuse(canary, triton):
    triton.hangs = True
    triton.calls = {"preprocess": (1, 0), "ensemble": (0, 0)}  # the canary itself
    finding = canary.probe(AT_ONCE_S)
    assert finding.verdict is ProbeStatus.FAILED
    assert finding.result.error == "no answer in time"


def test_canaries_that_hang_excuse_no_other(canary, triton):
    triton.hangs = True
    for number in (1, 2, 3):
        triton.calls = {"preprocess": (number, 0), "ensemble": (0, 0)}
        assert canary.probe(AT_ONCE_S).verdict is ProbeStatus.FAILED


def test_a_canary_that_waits_behind_others_is_no_failure(canary, triton):
    triton.hangs = True
    triton.calls = {"preprocess": (9, 0), "ensemble": (0, 0)}
    finding = canary.probe(AT_ONCE_S)
    assert (finding.verdict, finding.is_proof) == (ProbeStatus.EXCUSED, False)


def test_calls_that_are_dead_are_no_excuse_though_triton_counts_them(canary, triton, others):
    triton.hangs, others.wait = True, False
    triton.calls = {"preprocess": (9, 0), "ensemble": (0, 0)}
    assert canary.probe(AT_ONCE_S).verdict is ProbeStatus.FAILED


def test_an_engine_that_finishes_nothing_for_too_long_has_no_excuse(canary, triton, clock):
    triton.hangs = True
    triton.calls = {"preprocess": (9, 0), "ensemble": (0, 0)}
    clock.now_s += MAX_STALL_S + 1
    assert canary.probe(AT_ONCE_S).verdict is ProbeStatus.FAILED


def test_calls_of_others_that_succeed_prove_as_much(canary, triton, clock):
    canary.probe(IN_TIME_S)
    triton.hangs = True
    clock.now_s += MAX_STALL_S + 1
    triton.calls = {"preprocess": (9, 0), "ensemble": (5, 0)}
    finding = canary.probe(AT_ONCE_S)
    assert (finding.verdict, finding.is_proof, finding.result.is_ok) == (ProbeStatus.EXCUSED, True, False)


def test_a_server_that_nobody_can_reach_is_a_failure(release):
    canary = Canary(TritonServer(release.directory, ports=FREE_PORTS.choose("127.0.0.1")), release, Others())
    finding = canary.probe(IN_TIME_S)
    assert finding.verdict is ProbeStatus.FAILED
    assert finding.result.error
    canary.close()


def test_every_task_and_schema_is_warmed_up(release):
    inputs = warm_up_inputs(release).values()
    assert {each.get("task") for each in inputs} - {None} == set(TASKS)
    assert {each.get("schema_id") for each in inputs} - {None} == set(SCHEMAS)


def test_without_schemas_the_canary_is_guided_all_the_same(tmp_path, triton, server):
    change_manifest(write_release(tmp_path / "bare").directory, schemas={})
    bare = Release.open(tmp_path / "bare")
    triton.body = answer(bare)
    canary = Canary(server, bare, Others())
    assert canary.probe(IN_TIME_S).verdict is ProbeStatus.PROVEN
    assert triton.requests[0][1]["guided_decoding_guide_type"] == "json"
    canary.close()
