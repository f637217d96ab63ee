"""API keys at the gateway: handed through, demanded by their form before a server sees a request, never in its log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from llm_policy.api_key import create_key
from llm_policy.ledger.database import open_database
from llmstack.gateway.backend import Backend
from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway
from tests.docker.test_attacks import BODY, HEADERS, INFER, METADATA, channel, infer_request, send_raw
from tests.integration.live_service import HOST, LiveService, wait_until
from tests.tenants import add_tenant

pytestmark = pytest.mark.slow

CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "ensemble", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
# The answer comes in one response: `/generate` of a stream takes no other.
GENERATE = {"text_input": "hello", "max_tokens": 4, "stream": False, **HEADERS}
NO_KEYS = [
    {},
    {"X-Api-Key": ""},
    {"X-Api-Key": "sk-foreign"},
    {"Authorization": "Bearer lsk_short"},
    {"Authorization": "{key}"},
    {"Authorization": "Basic {key}"},
    {"X-Api-Key": "{key}A"},
    {"X-Api-Key": "{key} {key}"},
    {"X-Tenant": "acme"},
]
KEYS = [{"X-Api-Key": "{key}"}, {"Authorization": "Bearer {key}"}, {"authorization": "bearer  {key}"}]
CALLS = ["ensemble/generate", "ensemble/generate_stream", "ensemble_stream/generate", "ensemble_stream/generate_stream"]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    require_programs("haproxy", "openssl")
    environment = {"LLMSTACK_REQUIRE_API_KEYS": "1"}
    with LiveService(tmp_path_factory.mktemp("service"), environment=environment, serves_openai=True) as service:
        yield service


@pytest.fixture(scope="module")
def key(live: LiveService) -> str:
    with closing(open_database(live.state_dir / "ledger.db", must_exist=True)) as connection:
        return add_tenant(connection, "acme")


@pytest.fixture(scope="module")
def gateway(live: LiveService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    backend = Backend(HOST, live.http_port, live.grpc_port, live.ready_port, live.openai_port)
    directory = tmp_path_factory.mktemp("gateway")
    with RunningGateway(directory, [backend], ready_path="/readyz", requires_api_keys=True) as running:
        yield running


def filled(headers: dict[str, str], key: str) -> dict[str, str]:
    return {name: value.replace("{key}", key) for name, value in headers.items()}


def post(gateway: RunningGateway, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(gateway.http_url + path, json=body, headers=headers, verify=gateway.tls(), timeout=60)


def send_grpc(gateway: RunningGateway, headers: dict[str, str], *, streams: bool) -> str:
    """The status of one call, and the details of an error."""
    metadata = (*METADATA, *((name.lower(), value) for name, value in headers.items()))
    path = "/inference.GRPCInferenceService/"
    message = infer_request("ensemble_stream" if streams else "ensemble").SerializeToString()
    with channel(gateway) as opened:
        try:
            if streams:
                list(opened.stream_stream(f"{path}ModelStreamInfer")(iter([message]), metadata=metadata, timeout=30))
            else:
                opened.unary_unary(f"{path}ModelInfer")(message, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            call: Any = error
            return f"{call.code().name} {call.details()}"
    return "OK"


def num_requests(live: LiveService) -> int:
    """What any of the server's models has seen, but for canaries."""
    ((rows,),) = live.rows("SELECT count(*) FROM request WHERE canary = 0")
    ((rejections,),) = live.rows("SELECT coalesce(sum(num_rows), 0) FROM rejection_count")
    return rows + rejections


@pytest.mark.parametrize("headers", KEYS, ids=json.dumps)
def test_a_key_goes_through_over_every_protocol(gateway, key, headers):
    given = filled(headers, key)
    assert post(gateway, INFER, BODY, HEADERS | given).status_code == 200
    for call in CALLS:
        answer = post(gateway, f"/v2/models/{call}", GENERATE | given)
        assert answer.status_code == 200 and '"error"' not in answer.text, answer.text
    assert post(gateway, CHAT_PATH, CHAT, HEADERS | given).status_code == 200
    assert [send_grpc(gateway, given, streams=streams) for streams in (False, True)] == ["OK", "OK"]


@pytest.mark.parametrize("headers", NO_KEYS, ids=json.dumps)
def test_a_request_without_a_key_is_rejected_before_a_server_sees_it(gateway, live, key, headers):
    before = num_requests(live)
    given = filled(headers, key)
    answers = [post(gateway, INFER, BODY, HEADERS | given)]
    answers += [post(gateway, f"/v2/models/{call}", GENERATE | given) for call in CALLS]
    for answer in answers:
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), answer.text
        assert answer.json()["error"].startswith("missing_api_key: an API key is required")
    answer = post(gateway, CHAT_PATH, CHAT, HEADERS | given)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("missing_api_key", "authentication_error", None)
    for streams in (False, True):
        status = send_grpc(gateway, given, streams=streams)
        assert status.startswith("INVALID_ARGUMENT gateway: missing_api_key: "), status
    assert num_requests(live) == before


def test_a_large_body_without_a_key_is_rejected(gateway, live):
    before = num_requests(live)
    answer = post(gateway, "/v2/models/ensemble/generate", GENERATE | {"text_input": "a" * 100_000})
    assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (401, "missing_api_key")
    assert num_requests(live) == before


def test_a_key_that_only_looks_valid_is_the_servers_to_reject(gateway):
    answer = post(gateway, INFER, BODY, HEADERS | {"X-Api-Key": create_key()})
    assert (answer.status_code, "invalid_api_key" in answer.text) == (400, True)
    answer = post(gateway, CHAT_PATH, CHAT, HEADERS | {"Authorization": f"Bearer {create_key()}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_models_and_health_need_no_key_and_usage_does(gateway):
    with httpx.Client(base_url=gateway.http_url, verify=gateway.tls()) as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/usage?by=day").status_code == 401


def test_a_key_in_the_url_is_rejected(gateway, key):
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=gateway.http_url, verify=gateway.tls(), headers=headers) as client:
        for path in (f"/v1/usage?key={key}", f"/v1/models/{key}", f"/v1/models?key={key}", f"{INFER}?X-Api-Key={key}"):
            assert client.get(path).status_code == 404
            assert client.post(path, json=CHAT).status_code == 404


def test_a_key_as_the_requests_id_is_rejected(gateway, key):
    answer = post(gateway, INFER, {**BODY, "id": key}, HEADERS | {"X-Api-Key": key})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request: id holds an API key")
    answer = post(gateway, "/v2/models/ensemble/generate", {**GENERATE, "id": key, "X-Api-Key": key})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request: id holds an API key")


def test_the_log_never_holds_a_key(gateway, key):
    with httpx.Client(base_url=gateway.http_url, verify=gateway.tls(), headers=HEADERS) as client:
        texts = [client.post(INFER, json={**BODY, key: 1}, headers={"X-Api-Key": key}).text]
        texts += [client.post("/v2/models/ensemble/generate", json={**GENERATE, key: 1}).text]
        client.get(f"/v1/models/{key}")
        client.get(f"/{key}?{key}")
        client.request(key, "/v2/health/live")
    bad = {"X-Api-Key": key}
    send_grpc(gateway, bad | {f"triton_{key}".lower(): key}, streams=False)
    send_raw(gateway, f"{key} /{key} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n".encode())
    send_raw(gateway, f"GET /v2/health/live HTTP/9.9\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    assert all(key[8:30] not in text for text in texts)
    wait_until(lambda: any("hidden" in line.get("method", "") for line in gateway.log()))
    assert key[8:30] not in Path(gateway.log_path).read_text()
