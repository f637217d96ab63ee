"""`ensemble_stream` on a live server: the same answers and the same books as the ensemble's, in pieces."""

import asyncio
import contextlib
import json
import os
import subprocess

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from llm_policy.release.release import Release
from llmstack.bench.perf_analyzer import PerfAnalyzerError, find_perf_analyzer
from llmstack.client.ensemble_client import release_headers, send_grpc
from llmstack.client.stream_client import STREAM_MODEL, Piece, open_streams, stream_generate, stream_grpc
from tests.import_graph import ROOT
from tests.integration.live_service import LiveService, wait_until
from tests.markdown import blocks

pytestmark = pytest.mark.server
TEXT = "Ada Lovelace ordered 5 lamps."
LONG = {"text_input": TEXT, "max_tokens": 2_000, "min_tokens": 2_000}
ENGINE_ONLY = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
MEASURED = (*ENGINE_ONLY, "queue_delay_us", "time_to_first_token_us", "total_time_us", "flags")
LOG_PROBS = {"output_log_probs", "cum_log_probs"}
REQUESTS = {
    "plain": {"text_input": TEXT, "max_tokens": 24},
    "registered schema": {"text_input": TEXT, "schema_id": "order", "max_tokens": 96},
    "own guide": {
        "text_input": TEXT,
        "guided_decoding_guide_type": "regex",
        "guided_decoding_guide": "[a-z]{1,8} (é|👩|ü)+",
        "max_tokens": 24,
    },
    "with its prompt": {"text_input": TEXT, "max_tokens": 8, "exclude_input_in_output": False},
    "with log-probabilities": {"text_input": TEXT, "max_tokens": 8, "return_log_probs": True},
    "seeded": {"text_input": TEXT, "max_tokens": 16, "temperature": 1.0, "top_k": 50, "top_p": 0.9, "seed": 7},
    "task": {"text_input": TEXT, "task": "judge", "max_tokens": 16},
}


@pytest.fixture(scope="module")
def headers(server):
    return {**release_headers(Release.open(server.release_dir)), "X-Tenant": "acme", "X-Request-Id": "stream-1"}


def over_grpc(server, inputs, headers) -> list[Piece]:
    async def collect() -> list[Piece]:
        async with open_streams(server) as client:
            return [piece async for piece in stream_grpc(client, inputs, headers)]

    return asyncio.run(collect())


WAYS = {"gRPC": over_grpc, "SSE": lambda *arguments: list(stream_generate(*arguments))}


def as_lists(outputs):
    return {name: values for name, values in outputs.items() if name not in MEASURED}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_the_pieces_joined_are_the_answer_of_the_ensemble(server, headers, request_name):
    inputs = REQUESTS[request_name]
    answer = send_grpc(server, inputs, headers)
    assert not answer.error
    pieces = over_grpc(server, inputs, headers)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == answer.first("text_output")
    counts = [piece.first("num_output_tokens") for piece in pieces]
    assert counts == sorted(counts)
    joined = [value for piece in pieces for value in piece.outputs.get("output_log_probs", [])]
    last = {**pieces[-1].outputs, "text_output": answer.outputs["text_output"]}
    expected = as_lists(answer.outputs)
    if "output_log_probs" in expected:
        last["output_log_probs"] = joined
    for name in LOG_PROBS & expected.keys():  # their last digits depend on who else is in the engine's batch
        assert last[name] == pytest.approx(expected.pop(name), abs=1e-3)
    assert {name: last[name] for name in expected} == expected
    assert set(last) - set(answer.outputs) == {"is_last"}


def test_server_sent_events_carry_the_same_pieces(server, headers):
    inputs = REQUESTS["plain"]
    pieces = WAYS["SSE"](server, inputs, headers)
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == send_grpc(server, inputs, headers).first("text_output")
    assert pieces[-1].first("cost_usd") > 0


def test_generate_gets_one_response_when_stream_is_false(server, headers):
    body = {**REQUESTS["plain"], **headers, "stream": False}
    answer = httpx.post(f"{server.http_url}/v2/models/ensemble_stream/generate", json=body, timeout=60).json()
    assert answer["text_output"] == send_grpc(server, REQUESTS["plain"], headers).first("text_output")
    assert answer["is_last"] is True


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"max_tokens": 100_000}, "token_budget_overrun"),
        ({"task": "poet"}, "unknown_task"),
        ({"guided_decoding_guide_type": "regex", "guided_decoding_guide": "("}, "schema_invalid"),
    ],
)
def test_a_rejected_stream_has_one_response_with_a_declared_code(server, headers, way, change, code):
    (piece,) = WAYS[way](server, {"text_input": TEXT, "max_tokens": 8, **change}, headers)
    assert piece.code == code


def test_a_stream_without_headers_is_rejected(server):
    (piece,) = over_grpc(server, REQUESTS["plain"], {})
    assert piece.code == "missing_header"


def test_the_ensemble_names_the_model_that_streams(server, headers):
    assert (
        "send the request to ensemble_stream" in send_grpc(server, {**REQUESTS["plain"], "stream": True}, headers).error
    )


def test_a_batch_of_two_rows_is_refused(server, headers):
    tensor = triton_grpc.InferInput("text_input", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"a"], [b"b"]], np.object_))

    async def send() -> str:
        async def requests():
            yield {"model_name": STREAM_MODEL, "inputs": [tensor]}

        async with open_streams(server) as client:
            metadata = {name.lower(): value for name, value in headers.items()}
            ((_, error),) = [response async for response in client.stream_infer(requests(), headers=metadata)]
            return error.message()

    assert asyncio.run(send()) == "invalid_input: the batch has 2 rows, a stream has 1"


@pytest.fixture
def perf_analyzer() -> str:
    try:
        return find_perf_analyzer()
    except PerfAnalyzerError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_perf_analyzer_reads_streams_with_the_documented_command(server, headers, perf_analyzer, tmp_path):
    (command,) = (block.text for block in blocks(ROOT / "docs/streaming.md") if "perf_analyzer -m" in block.text)
    changes = {"\nperf_analyzer": f"\n{perf_analyzer}", "localhost:8001": server.grpc_url, "acme": "perf-analyzer"}
    for documented, here in changes.items():
        command = command.replace(documented, here)
    (tmp_path / "build").mkdir()
    environment = {**os.environ, "HASH": headers["X-Engine-Hash"]}
    done = subprocess.run(
        ["bash", "-ec", command],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    profile = json.loads((tmp_path / "build/profile.json").read_text())
    streams = [stream for experiment in profile["experiments"] for stream in experiment["requests"]]
    assert len(streams) == 40
    for stream in streams:
        responses = stream["response_outputs"]
        assert [response["is_last"] for response in responses] == [False] * (len(responses) - 1) + [True]
        assert len(responses) > 2
        assert stream["timestamp"] < stream["response_timestamps"][0] < stream["response_timestamps"][-1]
    rows = server.rows("SELECT state, count(*) FROM request WHERE tenant = 'perf-analyzer' GROUP BY state")
    assert [state for state, _ in rows] == ["settled"]
    assert "Response Throughput" in (tmp_path / "build/report.csv").read_text()


async def cancel_after(service, inputs, headers, num_pieces):
    """Read some pieces of a stream over gRPC, then cancel it; the number of tokens that were told."""
    num_tokens = 0
    async with open_streams(service) as client, contextlib.aclosing(stream_grpc(client, inputs, headers)) as pieces:
        async for piece in pieces:
            assert not piece.error
            num_tokens = piece.first("num_output_tokens")
            num_pieces -= 1
            if not num_pieces:
                break
    return num_tokens


def row(service: LiveService, request_id: str):
    query = "SELECT state, code, num_completion_tokens FROM request WHERE request_id = ?"
    return next(iter(service.rows(query, request_id)), ("", "", 0))


def running(service: LiveService) -> int:
    engine = service.readiness()["engine_process"]
    return int(engine["running"]) + int(engine["waiting"])


@pytest.mark.parametrize("way", ["gRPC", "SSE"])
def test_a_client_that_goes_away_ends_the_engines_work_and_pays_for_the_tokens_until_then(embedded_service, way):
    service, request_id = embedded_service, f"cancel-{way}"
    headers = {**service.headers, "X-Tenant": "acme", "X-Request-Id": request_id}
    if way == "gRPC":
        num_tokens = asyncio.run(cancel_after(service, LONG, headers, 5))
    else:
        with contextlib.closing(stream_generate(service, LONG, headers)) as pieces:
            num_tokens = [next(pieces) for _ in range(5)][-1].first("num_output_tokens")
    wait_until(lambda: row(service, request_id)[0] == "cancelled")
    _, code, num_charged = row(service, request_id)
    assert code == "cancelled"
    assert num_tokens <= num_charged < LONG["max_tokens"]
    wait_until(lambda: running(service) == 0)


@pytest.mark.slow
def test_an_engine_that_dies_ends_the_stream_with_a_declared_code_and_the_row_pays_for_what_came(embedded_service):
    service = embedded_service
    headers = {**service.headers, "X-Tenant": "acme", "X-Request-Id": "engine-dies"}
    pieces = stream_generate(service, LONG, headers)
    num_tokens = [next(pieces) for _ in range(5)][-1].first("num_output_tokens")
    before = service.readiness()["engine_process"]
    next(process for process in service.child_processes() if process.pid == before["pid"]).kill()
    *rest, last = list(pieces)
    assert last.code == "engine_unavailable"
    wait_until(lambda: row(service, "engine-dies")[0] == "cancelled")
    _, code, num_charged = row(service, "engine-dies")
    told = [num_tokens, *(piece.first("num_output_tokens") for piece in rest)][-1]
    assert (code, num_charged >= told) == ("engine_unavailable", True)
    wait_until(lambda: service.readiness()["engine_process"]["restarts"] > before["restarts"], 120, service.output)
    wait_until(service.is_ready, 120, service.output)


@pytest.mark.slow
def test_a_dead_stub_is_replaced_alone_and_streams_work_again(embedded_service):
    service = embedded_service
    engine_pid = service.readiness()["engine_process"]["pid"]
    service.stub("ensemble_stream").kill()
    headers = {**service.headers, "X-Tenant": "acme"}

    def works() -> bool:
        with contextlib.suppress(httpx.HTTPError, json.JSONDecodeError):
            pieces = list(stream_generate(service, {"text_input": TEXT, "max_tokens": 4}, headers))
            return bool(pieces) and not pieces[-1].error
        return False

    wait_until(works, 120, service.output)
    assert service.readiness()["engine_process"]["pid"] == engine_pid
    wait_until(lambda: "replaced: the process of ensemble_stream" in service.output(), 120, service.output)


@pytest.mark.slow
def test_a_stub_that_hangs_is_replaced_alone(embedded_service):
    service = embedded_service
    triton_pid = service.triton().pid
    service.stub("ensemble_stream").suspend()
    wait_until(lambda: "outage: ensemble_stream hangs" in service.output(), 120, service.output)
    headers = {**service.headers, "X-Tenant": "acme"}
    wait_until(service.is_ready, 120, service.output)
    pieces = list(stream_generate(service, {"text_input": TEXT, "max_tokens": 4}, headers))
    assert (pieces[-1].error, service.triton().pid) == ("", triton_pid)


@pytest.mark.slow
@pytest.mark.ends_server
def test_a_drain_waits_for_a_stream_and_rejects_the_next_one(embedded_service):
    service = embedded_service
    headers = {**service.headers, "X-Tenant": "acme"}
    pieces = stream_generate(service, {"text_input": TEXT, "max_tokens": 400, "min_tokens": 400}, headers)
    next(pieces)
    assert service.process is not None
    service.process.terminate()
    wait_until(lambda: any("draining" in reason for reason in service.readiness()["reasons"]))
    (rejected,) = stream_generate(service, {"text_input": TEXT, "max_tokens": 4}, headers)
    assert rejected.code == "draining"
    *_, last = pieces
    assert (last.error, last.first("num_output_tokens")) == ("", 400)
    assert service.process.wait(120) == 0
