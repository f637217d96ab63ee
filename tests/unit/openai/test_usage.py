"""GET /v1/usage: the front end asks the readiness port with the caller's key, and answers in OpenAI's form."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from llm_policy.api_key import create_key
from llm_policy.ledger import usage
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.usage import Usage, UsageKey
from llmstack.openai.app import OpenAIApi, make_app
from llmstack.openai.model_names import ModelNames
from llmstack.openai.usage_client import UsageClient
from llmstack.server.ports import listen
from llmstack.supervision.page_server import Page, PageServer, Query
from llmstack.supervision.usage_page import UsagePage
from tests.tenants import add_tenant

HOST = "127.0.0.1"
ENGINE = "sha256:" + "a" * 64
TODAY = time.time_ns() // (86_400 * 10**9)


class Scene:
    """Front ends before a readiness port."""

    def __init__(self, directory: Path, opened: ExitStack) -> None:
        self._opened = opened
        with closing(open_database(directory / FILE_NAME)) as connection:
            self.key = add_tenant(connection, "acme")
            add_tenant(connection, "bolt")
            usage.add(connection, {UsageKey("acme", TODAY, "judge", "order", ENGINE): Usage(3, 300, 30, 62_000)})
            usage.add(connection, {UsageKey("bolt", TODAY, "judge", "", ENGINE): Usage(1, 1, 1, 1)})
            usage.add_refusals(connection, {("acme", TODAY, "rate_limited"): 4})
        page = UsagePage(directory / FILE_NAME, "an-admin-key", lambda: {ENGINE: "Qwen/Qwen3-32B"})
        self.client = self.client_of(page.answer)

    def client_of(self, answer: Callable[[Query], Page]) -> TestClient:
        """A client of a front end whose readiness port answers so."""
        server = self._opened.enter_context(PageServer(listen(HOST, "ready", 0), {}, "test", {"/usage": answer}))
        return self.client_at(f"http://{HOST}:{server.port}")

    def client_at(self, readiness: str | None) -> TestClient:
        app = make_app(OpenAIApi([f"{HOST}:1"], ModelNames(), UsageClient(readiness)))
        return self._opened.enter_context(TestClient(app, raise_server_exceptions=False))

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as opened:
        yield Scene(tmp_path, opened)


def test_the_answer_is_the_callers_own_usage(scene):
    answer = scene.client.get("/v1/usage?by=model", headers=scene.bearer())
    sums = {
        "num_rows": 3,
        "num_prompt_tokens": 300,
        "num_completion_tokens": 30,
        "cost_nano_usd": 62_000,
        "cost_usd": "0.000062000",
    }
    document = answer.json()
    assert answer.status_code == 200
    assert (document.pop("since") < document.pop("until"), document) == (
        True,
        {
            "object": "usage",
            "tenant": "acme",
            "currency": "USD",
            "by": "model",
            "data": [{"model": "Qwen/Qwen3-32B", "engine_hash": ENGINE, "num_refused": None, **sums}],
            "totals": {"num_refused": 4, **sums},
            "num_groups": 1,
        },
    )


@pytest.mark.parametrize("by", ["day", "task", "schema", "tenant"])
def test_each_group_has_its_key_alone(scene, by):
    document = scene.client.get(f"/v1/usage?by={by}", headers={"X-Api-Key": scene.key}).json()
    assert list(document["data"][0])[-1] == by
    assert len(document["data"][0]) == 7
    assert document["totals"]["num_rows"] == 3


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer none"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {create_key()}"}, "invalid_api_key"),
        ({"X-Llmstack-Admin-Key": "an-admin-key"}, "missing_api_key"),
    ],
)
def test_without_a_valid_key_there_is_no_answer(scene, headers, code):
    answer = scene.client.get("/v1/usage", headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (401, code, "authentication_error")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("query", "status", "code", "param"),
    [
        ("by=code", 400, "invalid_input", "by"),
        ("since=yesterday", 400, "invalid_input", "since"),
        ("until=1970-01-02&since=1970-01-03", 400, "invalid_input", "until"),
        ("limit=3", 400, "invalid_input", None),
        ("by=day&x=é #\u2028", 400, "invalid_input", None),
        ("tenant=bolt", 403, "tenant_forbidden", None),
    ],
)
def test_a_query_that_is_rejected_names_its_parameter(scene, query, status, code, param):
    answer = scene.client.get(f"/v1/usage?{query}", headers=scene.bearer())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


def test_a_front_end_without_a_readiness_port_says_what_to_configure(scene):
    answer = scene.client_at(None).get("/v1/usage", headers=scene.bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "usage_unavailable")
    assert "--readiness http://HOST:8003" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"data": 1}', b'{"error": 1}', b'{"error": "a poem"}'])
@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_readiness_port_that_answers_something_else_is_unavailable(scene, body, status):
    answer = scene.client_of(lambda query: Page(body, status)).get("/v1/usage", headers=scene.bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_unavailable")


def test_a_readiness_port_that_is_gone_is_unavailable_and_not_named(scene, caplog):
    with caplog.at_level(logging.DEBUG):
        answer = scene.client_at(f"http://{HOST}:1").get("/v1/usage", headers=scene.bearer())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_unavailable")
    assert HOST not in answer.text
    assert scene.key not in caplog.text


def test_keys_are_not_logged(scene, caplog):
    with caplog.at_level(logging.DEBUG):
        scene.client.get("/v1/usage", headers=scene.bearer())
        scene.client.get("/v1/usage", headers={"X-Api-Key": scene.key + "x"})
    assert scene.key not in caplog.text
