"""Requests whose clients vanish keep nobody else from an answer, stop no process and are charged."""

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import tritonclient.grpc as triton_grpc

from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.ledger import Ledger
from llm_policy.release.release import Release
from tests.integration.client import start_call, tensors_of_call
from tests.integration.live_service import HOST, LiveService, wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

NUM_ABANDONED = 64
NUM_TOKENS = 5_900
ABANDONED = "canary = 0 AND tenant = 'vanishing'"
# Their answers end while the honest client's first one is on its way: a slot holds one at a time.
MAX_FINISHED = 4
_NOTED = "SELECT ledger_id FROM row_usage WHERE num_completion_tokens > 0"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("abandoned"), "embedded") as service:
        yield service


def num_rows(live: LiveService, condition: str) -> int:
    return int(live.rows(f"SELECT count(*) FROM request WHERE {condition}")[0][0])


def num_noted_rows(live: LiveService) -> int:
    """Open rows of which the engine has noted what they used."""
    with closing(sqlite3.connect(live.state_dir / "engine_usage.db")) as connection:
        noted = {ledger_id for (ledger_id,) in connection.execute(_NOTED)}
    return len(noted & {row_id for (row_id,) in live.rows("SELECT id FROM request WHERE state = 'admitted'")})


def close_open_rows(live: LiveService) -> int:
    """Close the rows without an answer, as the parent process does 600 s after their admission."""
    (boot_id,) = live.rows("SELECT boot_id FROM request ORDER BY id DESC LIMIT 1")[0]
    with closing(open_database(live.state_dir / FILE_NAME)) as connection:
        ledger = Ledger(connection, Release.open(live.release_dir).manifest, boot_id)
        return ledger.close_unanswered(time.time_ns(), max_open_s=0)


def abandon_over_http(live: LiveService) -> None:
    """Send the requests on sockets of their own, and close those once the requests are in the ledger."""
    tensors = [
        {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["hello"]},
        *(
            {"name": name, "shape": [1, 1], "datatype": "INT32", "data": [NUM_TOKENS]}
            for name in ("max_tokens", "min_tokens")
        ),
    ]
    body = json.dumps({"inputs": tensors}).encode()
    headers = {**live.headers, "X-Tenant": "vanishing", "Host": HOST, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    message = f"POST /v2/models/ensemble/infer HTTP/1.1\r\n{head}\r\n".encode() + body
    sockets = [socket.create_connection((HOST, live.http_port)) for _ in range(NUM_ABANDONED)]
    before = num_rows(live, ABANDONED)
    for connection in sockets:
        connection.sendall(message)
    wait_until(lambda: num_rows(live, ABANDONED) == before + NUM_ABANDONED)
    for connection in sockets:
        connection.close()


def abandon_over_grpc(live: LiveService) -> None:
    """Start the calls, and cancel them once they are in the ledger."""
    with triton_grpc.InferenceServerClient(live.grpc_url) as client:
        before = num_rows(live, ABANDONED)
        calls = [start_call(client, live, NUM_TOKENS, "vanishing") for _ in range(NUM_ABANDONED)]
        wait_until(lambda: num_rows(live, ABANDONED) == before + NUM_ABANDONED)
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("abandon", [abandon_over_http, abandon_over_grpc])
def test_an_honest_client_is_answered_before_the_requests_of_clients_that_are_gone(live, abandon):
    processes = {child.pid for child in live.child_processes()}
    num_settled = num_rows(live, f"{ABANDONED} AND state = 'settled'")
    abandon(live)
    began = time.monotonic()
    reply = live.send_request(headers={"X-Tenant": "honest"})
    print(f"{abandon.__name__}: first honest answer after {time.monotonic() - began:.2f} s")
    assert reply.status == 200
    assert num_rows(live, f"{ABANDONED} AND state = 'settled'") <= num_settled + MAX_FINISHED
    assert {child.pid for child in live.child_processes()} >= processes
    assert live.readiness()["restarts"] == 0
    wait_until(lambda: num_noted_rows(live) > 0)
    assert close_open_rows(live) > 0
    ((num_charged,),) = live.rows(
        f"SELECT count(*) FROM request WHERE {ABANDONED} AND state = 'cancelled' AND num_completion_tokens > 0 "
        "AND actual_nano_usd <= projected_nano_usd"
    )
    assert num_charged > 0
    assert live.llmstack("ledger", "verify").returncode == 0


TIMEOUT_US = 1_000_000


def send_with_timeout_over_http(live: LiveService) -> str:
    inputs = {"text_input": "hello", "max_tokens": NUM_TOKENS, "min_tokens": NUM_TOKENS}
    tensors = [
        {"name": name, "shape": [1, 1], "datatype": "BYTES" if name == "text_input" else "INT32", "data": [value]}
        for name, value in inputs.items()
    ]
    body = {"inputs": tensors, "parameters": {"timeout": TIMEOUT_US}}
    headers = {**live.headers, "X-Tenant": "impatient"}
    reply = httpx.post(f"{live.http_url}/v2/models/ensemble/infer", json=body, headers=headers, timeout=60)
    assert reply.status_code == 503
    return str(reply.json()["error"])


def send_with_timeout_over_grpc(live: LiveService) -> str:
    with triton_grpc.InferenceServerClient(live.grpc_url) as client:
        tensors = tensors_of_call(NUM_TOKENS)
        headers = {**{name.lower(): value for name, value in live.headers.items()}, "x-tenant": "impatient"}
        with pytest.raises(triton_grpc.InferenceServerException) as raised:
            client.infer("ensemble", tensors, headers=headers, timeout=TIMEOUT_US)
    return str(raised.value.message())


@pytest.mark.parametrize("send", [send_with_timeout_over_http, send_with_timeout_over_grpc])
def test_decoding_ends_at_the_time_limit_of_a_request_and_its_tokens_are_charged(live, send):
    assert "deadline_exceeded: " in send(live)
    ((state, code, num_tokens, cost, limit),) = live.rows(
        "SELECT state, code, num_completion_tokens, actual_nano_usd, projected_nano_usd FROM request "
        "WHERE tenant = 'impatient' ORDER BY id DESC LIMIT 1"
    )
    assert (state, code) == ("cancelled", "deadline_exceeded")
    assert 0 < num_tokens < NUM_TOKENS
    assert 0 < cost < limit
