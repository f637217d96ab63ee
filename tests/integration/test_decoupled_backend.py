"""Streams before a stand-in for TensorRT-LLM's decoupled C++ backend: pieces, books, cancellation, faults, restarts."""

import asyncio
import contextlib

import httpx
import pytest

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.ledger.engine_usage import read_notes
from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.client.ensemble_client import grpc_tensor
from llmstack.client.stream_client import STREAM_MODEL, open_streams, stream_generate, stream_grpc
from tests.integration.decoupled_server import DecoupledService
from tests.integration.live_service import START_TIMEOUT_S, wait_until
from tests.soak import ONLY_IN_SOAK

pytestmark = [pytest.mark.server, ONLY_IN_SOAK]
TEXT = "Ada Lovelace ordered 5 lamps."  # the stand-in repeats the prompt
LONG = {"text_input": TEXT, "max_tokens": 2_000}
TOLD_TO_FAIL = {"text_input": TEXT, "max_tokens": 6, "bad_words": "lamps"}  # before the last token


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with DecoupledService(tmp_path_factory.mktemp("decoupled")) as live:
        yield live


@pytest.fixture
def headers(service, request):
    return {**service.headers, "X-Tenant": "acme", "X-Request-Id": request.node.name[:64].replace("[", ".").strip("]")}


@pytest.fixture(scope="module")
def num_prompt_tokens(service):
    return len(Tokenizer.load(Release.open(service.release_dir).tokenizer_dir).encode_text(TEXT))


def row(service, headers):
    query = "SELECT state, code, num_completion_tokens FROM request WHERE request_id = ?"
    return next(iter(service.rows(query, headers["X-Request-Id"])), ("", "", 0))


def noted(service, headers):
    """The tokens of a row that are charged if nobody answers it."""
    with contextlib.closing(open_read_only(service.state_dir / FILE_NAME)) as ledger:
        rows = ledger.execute(
            "SELECT id, boot_id FROM request WHERE request_id = ?", (headers["X-Request-Id"],)
        ).fetchall()
        notes = read_notes(ledger, [(boot_id, ledger_id) for ledger_id, boot_id in rows], "")
        return sum(note.num_tokens for note in notes.by_id.values())


async def over_grpc(service, inputs, headers, num_pieces):
    """At most so many pieces; then the client cancels."""
    read = []
    async with open_streams(service) as client, contextlib.aclosing(stream_grpc(client, inputs, headers)) as pieces:
        async for piece in pieces:
            read.append(piece)
            if len(read) == num_pieces:
                break
    return read


def test_the_service_is_ready_and_its_canaries_are_streams(service):
    assert service.readiness()["ready"] is True
    assert "/v2/models/ensemble_stream/generate_stream" in service.output()
    assert httpx.get(f"{service.http_url}/v2/models/ensemble/ready").status_code == 400


@pytest.mark.parametrize("way", ["gRPC", "SSE"])
def test_tokens_come_one_after_the_other_and_the_row_pays_for_all_of_them(service, headers, num_prompt_tokens, way):
    inputs = {"text_input": TEXT, "max_tokens": num_prompt_tokens}
    if way == "gRPC":
        pieces = asyncio.run(over_grpc(service, inputs, headers, 1_000))
    else:
        pieces = list(stream_generate(service, inputs, headers))
    assert "".join(piece.text for piece in pieces) == TEXT
    assert len(pieces) > num_prompt_tokens / 2
    last = pieces[-1]
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (last.error, last.first("finish_reason"), last.first("num_output_tokens")) == (
        "",
        "length",
        num_prompt_tokens,
    )
    assert last.first("queue_delay_us") <= last.first("time_to_first_token_us") <= last.first("total_time_us")
    assert last.first("cost_usd") > 0
    assert row(service, headers) == ("settled", "", num_prompt_tokens)


def test_one_response_has_the_whole_answer(service, headers, num_prompt_tokens):
    body = {"text_input": TEXT, "max_tokens": num_prompt_tokens, "stream": False, **headers}
    answer = httpx.post(f"{service.http_url}/v2/models/ensemble_stream/generate", json=body, timeout=60).json()
    assert (answer["text_output"], answer["num_output_tokens"]) == (TEXT, num_prompt_tokens)


def test_each_token_has_its_log_probability_though_the_backend_repeats_them(service, headers):
    inputs = {"text_input": TEXT, "max_tokens": 8, "return_log_probs": True}
    pieces = asyncio.run(over_grpc(service, inputs, headers, 1_000))
    assert [value for piece in pieces for value in piece.outputs.get("output_log_probs", [])] == [-0.5] * 8
    assert pieces[-1].first("cum_log_probs") == -4.0


def test_the_backend_gets_the_sampling_and_the_guide(service, headers):
    guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[a-z]+"}
    inputs = {"text_input": TEXT, "max_tokens": 31, "temperature": 0.5, "top_k": 4, "stop_words": "zzz", **guide}
    last = list(stream_generate(service, inputs, headers))[-1]
    assert (last.error, last.first("guided"), last.first("schema_valid")) == ("", True, False)
    wait_until(lambda: any(request["max_tokens"] == 31 for request in service.ended()))
    received = next(request["inputs"] for request in service.ended() if request["max_tokens"] == 31)
    expected = {"temperature", "runtime_top_k", "stop_words_list", "end_id", "streaming", "guided_decoding_guide"}
    assert expected <= set(received)


@pytest.mark.parametrize("way", ["gRPC", "SSE"])
def test_a_client_that_goes_away_ends_the_backends_work_and_pays_for_what_came(service, headers, way):
    if way == "gRPC":
        num_told = asyncio.run(over_grpc(service, LONG, headers, 5))[-1].first("num_output_tokens")
    else:
        with contextlib.closing(stream_generate(service, LONG, headers)) as pieces:
            num_told = [next(pieces) for _ in range(5)][-1].first("num_output_tokens")
    wait_until(lambda: row(service, headers)[0] == "cancelled")
    _, code, num_charged = row(service, headers)
    assert (code, num_told <= num_charged < LONG["max_tokens"]) == ("cancelled", True)
    wait_until(lambda: any(num_charged <= request["num_tokens"] < 2_000 for request in service.ended()))


def test_a_fault_of_the_backend_ends_the_stream_with_a_declared_code_and_the_row_pays_for_what_came(service, headers):
    *pieces, last = stream_generate(service, TOLD_TO_FAIL, headers)
    assert last.code == "internal"
    assert "Executor" not in last.error
    assert "Executor failed" in service.log_path.read_text()
    assert row(service, headers) == ("cancelled", "internal", pieces[-1].first("num_output_tokens"))


def test_a_clients_own_timeout_ends_the_stream(service, headers):
    async def last_error():
        async def requests():
            inputs = [grpc_tensor(name, value) for name, value in LONG.items()]
            yield {"model_name": STREAM_MODEL, "inputs": inputs, "timeout": 200_000}

        async with open_streams(service) as client:
            metadata = {name.lower(): value for name, value in headers.items()}
            return [error async for _, error in client.stream_infer(requests(), headers=metadata)][-1]

    assert asyncio.run(last_error()).message().startswith("deadline_exceeded: ")
    state, code, num_charged = row(service, headers)
    assert (state, code, 0 < num_charged < LONG["max_tokens"]) == ("cancelled", "deadline_exceeded", True)


def test_many_streams_at_once_keep_their_tokens_apart(service, headers):
    async def one(number):
        inputs = {"text_input": f"{number} lamps", "max_tokens": 20}
        pieces = await over_grpc(service, inputs, {**headers, "X-Request-Id": f"many-{number}"}, 1_000)
        return "".join(piece.text for piece in pieces)

    async def all_at_once():
        return await asyncio.gather(*(one(number) for number in range(24)))

    texts = asyncio.run(all_at_once())
    assert all(text.startswith(f"{number} lamps") for number, text in enumerate(texts))
    rows = service.rows("SELECT state, num_completion_tokens FROM request WHERE request_id LIKE 'many-%'")
    assert rows == [("settled", 20)] * 24


def test_a_drain_waits_for_a_stream_and_rejects_the_next_one(service, headers):
    pieces = stream_generate(service, {"text_input": TEXT, "max_tokens": 400}, headers)
    next(pieces)
    service.process.terminate()
    wait_until(lambda: any("draining" in reason for reason in service.readiness()["reasons"]))
    (rejected,) = stream_generate(service, {"text_input": TEXT, "max_tokens": 4}, {**headers, "X-Request-Id": "late"})
    assert rejected.code == "draining"
    *_, last = pieces
    assert (last.error, last.first("num_output_tokens")) == ("", 400)
    assert service.process.wait(120) == 0


def test_a_stub_that_is_killed_leaves_a_note_of_its_tokens_and_is_replaced(service, headers):
    if service.process.poll() is not None:
        service.start()
        service.wait_ready()
    triton_pid = service.triton().pid
    pieces = stream_generate(service, LONG, headers)
    next(pieces)
    wait_until(lambda: noted(service, headers) > 0)
    service.stub("ensemble_stream").kill()
    pieces.close()
    wait_until(lambda: any(noted(service, headers) <= request["num_tokens"] < 2_000 for request in service.ended()))
    again = {**headers, "X-Request-Id": "after-the-kill"}

    def is_served():
        with contextlib.suppress(httpx.HTTPError):
            pieces = list(stream_generate(service, {"text_input": TEXT, "max_tokens": 4}, again))
            return bool(pieces) and not pieces[-1].error
        return False

    wait_until(is_served, START_TIMEOUT_S, service.output)
    wait_until(service.is_ready, START_TIMEOUT_S, service.output)
    assert service.triton().pid == triton_pid
