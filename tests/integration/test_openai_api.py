"""The OpenAI API on a live service, by the official SDK: answers, streams, structured output, errors, disconnects."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from contextlib import closing
from enum import Enum
from typing import Any

import httpx
import openai
import psutil
import pytest
from pydantic import BaseModel

from llm_policy.api_key import create_key
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.tenant import TenantLimits
from tests.integration.conftest import ADMIN_KEY, make_ready
from tests.integration.live_service import HOST, free_ports, wait_until
from tests.integration.release_service import SECOND, ReleaseService
from tests.soak import ONLY_IN_SOAK
from tests.tenants import add_tenant

pytestmark = pytest.mark.server
ORDER = "Ada Lovelace placed order ORD-4711. The customer wants 5 of the lamp. The status is packed. It is not a gift."
MESSAGES: list[Any] = [{"role": "user", "content": ORDER}]
LONG: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 2_000, "extra_body": {"min_tokens": 2_000}}


class Status(str, Enum):
    PENDING = "pending"
    PACKED = "packed"
    SHIPPED = "shipped"


class Order(BaseModel):
    order_id: str
    quantity: int
    status: Status


@pytest.fixture(scope="module")
def service(server):
    make_ready(server)
    wait_until(lambda: is_answering(server.openai_port), 60, server.output)
    return server


def is_answering(port):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://{HOST}:{port}/healthz", timeout=10).status_code == 200
    return False


def options(service, **more):
    headers = {**service.headers, "X-Tenant": "acme", **more.pop("headers", {})}
    return {
        "base_url": f"http://{HOST}:{service.openai_port}/v1",
        "api_key": "none",
        "default_headers": headers,
        "max_retries": 0,
        **more,
    }


@pytest.fixture(scope="module")
def client(service):
    with openai.OpenAI(**options(service)) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


def post(service, path="chat/completions", headers=None, **body):
    body = {"model": "ensemble", "messages": MESSAGES, "max_tokens": 8, **body}
    headers = service.headers if headers is None else headers
    return httpx.post(f"http://{HOST}:{service.openai_port}/v1/{path}", json=body, headers=headers, timeout=60)


def running(service):
    engine = service.readiness()["engine_process"]
    return int(engine["running"]) + int(engine["waiting"])


def test_a_chat_has_a_text_a_reason_usage_and_the_policys_report(service, client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8)
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", model, "chatcmpl-")
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "length")
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.system_fingerprint.removeprefix("fp_") in service.headers["X-Engine-Hash"]
    assert answer.llmstack["cost_usd"] > 0
    assert "truncated" in answer.llmstack["flags"]
    assert answer.llmstack["schema_valid"] is None


def test_the_chunks_of_a_chat_joined_are_the_whole_answer(client, model):
    request = {"model": model, "messages": MESSAGES, "max_completion_tokens": 24}
    whole = client.chat.completions.create(**request)
    *chunks, usage = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert len({chunk.id for chunk in [*chunks, usage]}) == 1
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert chunks[-1].llmstack["cost_usd"] == whole.llmstack["cost_usd"]


def test_completions_continue_a_text_whole_and_in_chunks(client, model):
    request = {"model": model, "prompt": "The order of Ada", "max_tokens": 12}
    whole = client.completions.create(**request)
    chunks = list(client.completions.create(**request, stream=True))
    assert whole.object == "text_completion"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    echoed = client.completions.create(**request, echo=True)
    assert echoed.choices[0].text == request["prompt"] + whole.choices[0].text


def test_asynchronous_streams_run_side_by_side(service, model):
    async def collect():
        async with openai.AsyncOpenAI(**options(service)) as sdk:

            async def one():
                request: Any = {"model": model, "messages": MESSAGES, "max_tokens": 8, "stream": True}
                stream: Any = await sdk.chat.completions.create(**request)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one() for _ in range(4)))

    texts = asyncio.run(collect())
    assert len(set(texts)) == 1
    assert texts[0]


def test_content_in_parts_and_the_role_developer_are_read(client, model):
    parts = [{"type": "text", "text": ORDER[:20]}, {"type": "text", "text": ORDER[20:]}]
    plain = [{"role": "system", "content": "Answer."}, *MESSAGES]
    in_parts = [{"role": "developer", "content": "Answer."}, {"role": "user", "content": parts}]
    texts = [
        client.chat.completions.create(model=model, messages=messages, max_tokens=16).choices[0].message.content
        for messages in (plain, in_parts)
    ]
    assert texts[0] == texts[1]


def test_a_pydantic_model_parses_the_answer(client, model):
    answer = client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Order)
    assert answer.choices[0].message.parsed == Order(order_id="ORD-4711", quantity=5, status=Status.PACKED)
    assert answer.llmstack["schema_valid"] is True
    with client.chat.completions.stream(model=model, messages=MESSAGES, response_format=Order) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed


def test_an_answer_that_is_cut_off_says_length_so_that_parsing_fails(client, model):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Order, max_tokens=4)


SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("request_", "pattern"),
    [
        ({"response_format": {"type": "json_object"}}, r"\{.*\}"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}, r'\{"a":"x"\}'),
        ({"guided_json": SCHEMA}, r'\{"a":"x"\}'),
        ({"guided_regex": "[a-z]{3}"}, "[a-z]{3}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'root ::= "ab" | "cd"'}, "ab|cd"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, r'\{"a":"x"\}'),
        ({"structured_outputs": {"choice": ["a,b", "c"]}}, "a,b|c"),
        ({"schema_id": "order"}, r'\{"order_id":"ORD-.*\}'),
        ({"task": "judge"}, r'\{"checks":.*\}'),
        ({"model": "ensemble:judge"}, r'\{"checks":.*\}'),
    ],
)
def test_every_spelling_of_structured_output_guides_the_answer(service, request_, pattern):
    answer = post(service, max_tokens=200, **request_).json()
    assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"])
    assert answer["llmstack"]["schema_valid"] is True
    assert answer["llmstack"]["resolved_schema_id"]


def test_log_probabilities_come_with_each_token(client, model):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 6, "logprobs": True}
    whole = client.chat.completions.create(**request).choices[0]
    tokens = whole.logprobs.content
    assert len(tokens) == 6
    assert "".join(token.token for token in tokens) == whole.message.content
    assert all(token.logprob <= 0 for token in tokens)
    chunks = list(client.chat.completions.create(**request, stream=True))
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in tokens], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "code", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "BadRequest", "unsupported_parameter", "tools"),
        ({"n": 2}, "BadRequest", "unsupported_parameter", "n"),
        ({"logprobs": True, "top_logprobs": 1}, "BadRequest", "unsupported_parameter", "top_logprobs"),
        ({"model": "gpt"}, "NotFound", "model_not_found", "model"),
        ({"max_tokens": 100_000}, "APIStatus", "token_budget_overrun", "messages"),
        ({"max_tokens": 2**32}, "BadRequest", "invalid_input", "max_tokens"),
        ({"temperature": 3}, "BadRequest", "invalid_input", "temperature"),
        ({"stop": ["a"] * 200}, "BadRequest", "invalid_input", "stop"),
        ({"extra_body": {"guided_regex": "("}}, "BadRequest", "schema_invalid", "guided_regex"),
        ({"extra_body": {"task": "poet"}}, "BadRequest", "unknown_task", "task"),
        ({"extra_body": {"schema_id": "poem"}}, "BadRequest", "unknown_schema", "schema_id"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_request_has_its_error_class_code_and_param(client, model, change, error, code, param, stream):
    with pytest.raises(getattr(openai, f"{error}Error")) as raised:
        client.chat.completions.create(**{"model": model, "messages": MESSAGES, "stream": stream, **change})
    assert (raised.value.code, raised.value.param) == (code, param)
    assert raised.value.response.headers["x-should-retry"] == "false"


def test_an_image_is_refused_with_its_place(client, model):
    image = {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": [image]}])
    assert raised.value.param == "messages[0].content[0].type"


def test_without_headers_the_error_says_what_an_sdk_has_to_send(service):
    answer = post(service, headers={})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "missing_header")
    assert 'default_headers={"X-Engine-Hash"' in error["message"]


def test_another_engines_hash_is_refused(service):
    answer = post(service, headers={**service.headers, "X-Engine-Hash": "sha256:" + "0" * 64})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "engine_hash_mismatch")


def test_a_header_with_control_characters_is_refused(service):
    answer = post(service, headers={**service.headers, "X-Tenant": "ä".encode()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": "a"}', b'{"messages": []}', b"\xff" * 10, b"[" * 10_000]
)
def test_a_malformed_body_is_an_error_in_openais_form(service, body):
    url = f"http://{HOST}:{service.openai_port}/v1/chat/completions"
    answer = httpx.post(url, content=body, headers=service.headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_large_body_and_unknown_paths_are_errors_in_openais_form(service):
    base = f"http://{HOST}:{service.openai_port}"
    large = httpx.post(f"{base}/v1/completions", content=b'{"prompt": "' + b"a" * (5 << 20) + b'"}')
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    assert httpx.get(f"{base}/v1/files").json()["error"]["code"] == "not_found"
    wrong = httpx.get(f"{base}/v1/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def new_tenant(service, name, **limits):
    """Options of an SDK with the key of a new tenant. The name is this module's own, the server is not."""
    name = f"openai-{name}"
    with closing(open_database(service.state_dir / FILE_NAME)) as connection:
        key = add_tenant(connection, name, TenantLimits(**limits))
    return options(service, headers={"X-Tenant": name}, api_key=key)


@contextlib.contextmanager
def counting_sdk(given):
    """The SDK and the requests that it has sent."""
    sent: list[httpx.Request] = []
    hooks: Any = {"request": [sent.append]}
    with (
        httpx.Client(event_hooks=hooks, timeout=60) as http_client,
        openai.OpenAI(**{**given, "http_client": http_client}) as sdk,
    ):
        yield sdk, sent


def ask(sdk, *, stream, **more):
    request: Any = {"model": "ensemble", "messages": MESSAGES, "max_tokens": 4, "stream": stream, **more}
    answer: Any = sdk.chat.completions.create(**request)
    return list(answer) if stream else answer


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_is_missing_or_invalid_is_an_authentication_error(service, stream):
    given = new_tenant(service, f"keyed-{stream}")
    for key, code in (("none", "missing_api_key"), (create_key(), "invalid_api_key")):
        changed = {**given, "api_key": key, "max_retries": 2}
        with counting_sdk(changed) as (sdk, sent), pytest.raises(openai.AuthenticationError) as raised:
            ask(sdk, stream=stream)
        assert (raised.value.code, raised.value.type, len(sent)) == (code, "authentication_error", 1)
        assert key not in str(raised.value) or key == "none"
    with openai.OpenAI(**given) as sdk:
        assert ask(sdk, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_tenant_may_not_send_is_a_permission_error(service, stream):
    given = new_tenant(service, f"bound-{stream}", tasks=("judge",))
    with counting_sdk({**given, "max_retries": 2}) as (sdk, sent):
        with pytest.raises(openai.PermissionDeniedError) as raised:
            ask(sdk, stream=stream)
        assert (raised.value.code, raised.value.type, len(sent)) == ("tenant_forbidden", "permission_error", 1)
        assert ask(sdk, stream=stream, model="ensemble:judge")
    in_anothers_name = {**given, "default_headers": {**service.headers, "X-Tenant": "acme"}}
    with openai.OpenAI(**in_anothers_name) as sdk, pytest.raises(openai.PermissionDeniedError):
        ask(sdk, stream=stream, model="ensemble:judge")


@pytest.mark.parametrize("stream", [False, True])
def test_a_rate_limit_is_an_error_that_says_when_to_retry(service, stream):
    with openai.OpenAI(**new_tenant(service, f"rated-{stream}", max_requests_per_minute=1)) as sdk:
        assert ask(sdk, stream=stream)
        with pytest.raises(openai.RateLimitError) as raised:
            ask(sdk, stream=stream)
    headers = raised.value.response.headers
    assert (raised.value.code, raised.value.type) == ("rate_limited", "rate_limit_error")
    assert headers["x-should-retry"] == "true"
    assert f"try again in {headers['retry-after']} s" in raised.value.message
    assert 1 <= int(headers["retry-after"]) <= 61


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_budget_is_an_error_that_the_sdk_does_not_retry(service, stream):
    given = new_tenant(service, f"poor-{stream}", max_nano_usd_per_day=1)
    with counting_sdk({**given, "max_retries": 5}) as (sdk, sent), pytest.raises(openai.RateLimitError) as raised:
        ask(sdk, stream=stream)
    assert (raised.value.code, len(sent)) == ("tenant_budget_overrun", 1)
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in raised.value.response.headers


def test_a_tenant_reads_its_usage_and_operators_everybodys(service):
    given = new_tenant(service, "reader", tasks=("judge",))
    with openai.OpenAI(**given) as sdk:
        answer = ask(sdk, stream=False, model="ensemble:judge")
        with pytest.raises(openai.PermissionDeniedError):
            ask(sdk, stream=False)
        usage: Any = sdk.get("/usage", cast_to=object, options={"params": {"by": "task"}})
    assert (usage["object"], usage["tenant"], usage["totals"]["num_refused"]) == ("usage", "openai-reader", 1)
    (judge,) = usage["data"]
    assert (judge["task"], judge["num_rows"]) == ("judge", 1)
    assert judge["num_prompt_tokens"] == answer.usage.prompt_tokens
    assert float(judge["cost_usd"]) == pytest.approx(answer.llmstack["cost_usd"], abs=1e-12)

    url = f"http://{HOST}:{service.ready_port}/usage"
    key_header = {"Authorization": f"Bearer {given['api_key']}"}
    assert httpx.get(url, params={"by": "task"}, headers=key_header).json()["data"] == usage["data"]
    assert httpx.get(url).status_code == 401
    everybody = httpx.get(url, params={"by": "tenant"}, headers={"X-Llmstack-Admin-Key": ADMIN_KEY})
    assert everybody.status_code == 200, everybody.text
    assert "openai-reader" in {row["tenant"] for row in everybody.json()["data"]}
    printed = service.llmstack("usage", "--by", "task", "--tenant", "openai-reader", "--json")
    assert json.loads(printed.stdout)["totals"] == usage["totals"]


def test_keys_are_in_no_file_of_the_server(service):
    given = new_tenant(service, "secret")
    with openai.OpenAI(**given) as sdk:
        ask(sdk, stream=True)
        sdk.get("/usage", cast_to=object)
    httpx.get(f"http://{HOST}:{service.ready_port}/usage", headers={"X-Api-Key": given["api_key"] + "x"})
    key = given["api_key"].encode()
    files = [path for path in service.state_dir.rglob("*") if path.is_file()]
    assert [path.name for path in files if key in path.read_bytes()] == []
    assert key.decode() not in service.output()


def test_the_lowest_top_p_is_allowed(service):
    assert post(service, temperature=0.5, top_p=1e-06).status_code == 200


def test_ignored_parameters_and_the_report_are_response_headers(service):
    answer = post(
        service, headers={**service.headers, "X-Request-Id": "my-id"}, user="u", store=True, x_y=1, task="judge"
    )
    assert answer.headers["x-llmstack-ignored"] == "store, user, x_y"
    assert answer.headers["x-request-id"] == "my-id"
    assert answer.headers["x-llmstack-engine-hash"] == service.headers["X-Engine-Hash"]
    assert answer.headers["x-llmstack-schema-valid"] == "false"
    assert answer.headers["x-llmstack-resolved-schema-id"] == "verdict"
    assert float(answer.headers["x-llmstack-cost-usd"]) == answer.json()["llmstack"]["cost_usd"]
    assert "truncated" in answer.headers["x-llmstack-flags"]
    assert post(service).headers["x-request-id"].startswith("req_")


def test_headers_reach_the_ledger(service):
    post(service, headers={**service.headers, "X-Tenant": "acme", "X-Request-Id": "ledger-1"})
    query = "SELECT tenant, state FROM request WHERE request_id = 'ledger-1'"
    wait_until(lambda: service.rows(query) == [("acme", "settled")], explain=lambda: str(service.rows(query)))


def test_the_models_are_the_releases_and_its_tasks(client):
    names = [card.id for card in client.models.list()]
    assert names == [names[0], *(f"{names[0]}:{task}" for task in ("generate_json", "rank_candidates", "judge"))]
    assert client.models.retrieve(names[1]).id == names[1]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_the_document_describes_every_path(service):
    document = httpx.get(f"http://{HOST}:{service.openai_port}/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/usage",
    }
    assert "messages" in document["components"]["schemas"]["ChatRequest"]["properties"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_engine(service, stream):
    body = {"model": "ensemble", "messages": MESSAGES, "max_tokens": 2_000, "min_tokens": 2_000, "stream": stream}
    content = json.dumps(body).encode()
    request_id = f"gone-{stream}"
    head = {**service.headers, "X-Request-Id": request_id, "Host": HOST, "Content-Length": str(len(content))}
    lines = ["POST /v1/chat/completions HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    with socket.create_connection((HOST, service.openai_port)) as connection:
        connection.sendall("\r\n".join(lines).encode() + content)
        wait_until(lambda: running(service) == 1)
    wait_until(lambda: running(service) == 0, 20)
    query = "SELECT state, num_completion_tokens < 2000 FROM request WHERE request_id = ?"
    wait_until(lambda: service.rows(query, request_id) == [("cancelled", 1)])


def test_a_front_end_elsewhere_passes_over_a_server_that_is_down(service):
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "llmstack", "openai", "serve", "--triton", f"{HOST}:1,{service.grpc_url}"]
    with subprocess.Popen([*command, "--port", str(port)]) as process:
        try:
            wait_until(lambda: is_answering(port))
            sdk = openai.OpenAI(**options(service, base_url=f"http://{HOST}:{port}/v1", max_retries=2))
            models = [card.id for card in sdk.models.list()]
            answers = [sdk.chat.completions.create(model="any", messages=MESSAGES, max_tokens=4) for _ in range(4)]
        finally:
            process.terminate()
    assert models == ["ensemble"]
    assert all(answer.choices[0].message.content for answer in answers)


def test_a_front_end_that_dies_is_started_again_on_its_port(service, client, model):
    state = service.readiness()["openai"]
    assert state["port"] == service.openai_port
    psutil.Process(state["pid"]).kill()
    wait_until(lambda: service.readiness()["openai"]["restarts"] > state["restarts"], 60, service.output)
    sdk = client.with_options(max_retries=5)
    assert sdk.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4).choices
    wait_until(service.is_ready, 60, service.output)
    assert "outage: the process of the OpenAI API died" in service.output()


@pytest.mark.slow
def test_an_engine_that_dies_ends_a_stream_with_an_error(service, client, model):
    stream = client.chat.completions.create(model=model, stream=True, **LONG)
    for _, _chunk in zip(range(5), stream, strict=False):
        pass
    engine = service.readiness()["engine_process"]
    psutil.Process(engine["pid"]).kill()
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert raised.value.code == "engine_unavailable"
    wait_until(lambda: service.readiness()["engine_process"]["restarts"] > engine["restarts"], 120, service.output)
    wait_until(lambda: post(service).status_code == 200, 120, service.output)


@pytest.mark.slow
@pytest.mark.ends_server
def test_a_drain_completes_streams_and_then_ends_the_front_end(service, client, model):
    stream = client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=300, extra_body={"min_tokens": 300}, stream=True
    )
    next(stream)
    service.process.terminate()
    wait_until(lambda: any("draining" in reason for reason in service.readiness()["reasons"]))

    def is_rejected():
        answer = post(service)
        return answer.status_code == 503 and answer.json()["error"]["code"] == "draining"

    wait_until(is_rejected)
    *_, last = stream
    assert last.choices[0].finish_reason == "length"
    assert service.process.wait(120) == 0


@ONLY_IN_SOAK
def test_a_promotion_brings_the_front_end_of_the_new_release(tmp_path):
    live = ReleaseService(tmp_path / "service", "echo")
    live.serves_openai = True
    with live:
        before = live.readiness()["openai"]
        promoted = live.llmstack("release", "promote", SECOND, "--override", "test", "--required-sign-offs", "0")
        assert promoted.returncode == 0, promoted.stderr
        after = live.readiness()["openai"]
        answer = post(live, headers=live.headers_of(SECOND))
    assert answer.status_code == 200, answer.text
    assert after["pid"] != before["pid"]
    assert (after["port"], after["restarts"]) == (before["port"], before["restarts"])
