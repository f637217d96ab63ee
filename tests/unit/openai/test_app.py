"""The application without a server behind it: faults, limits and paths."""

from __future__ import annotations

import logging

import pytest
from starlette.testclient import TestClient

from llmstack.openai.app import OpenAIApi, make_app
from llmstack.openai.model_names import ModelNames

REQUEST = {"model": "ensemble", "messages": [{"role": "user", "content": "hi"}]}


class BrokenNames(ModelNames):
    @property
    def ids(self):
        raise RuntimeError("secret")


@pytest.fixture
def client():
    app = make_app(OpenAIApi(["127.0.0.1:1"], ModelNames(), max_body_bytes=1_000))
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_server_the_answer_says_so_and_names_no_address(client, stream):
    answer = client.post("/v1/chat/completions", json={**REQUEST, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_unavailable")
    assert "127.0.0.1" not in answer.text
    assert answer.headers["x-should-retry"] == "true"
    assert client.get("/healthz").status_code == 503


def test_a_body_over_the_limit_is_refused(client):
    answer = client.post("/v1/chat/completions", json={**REQUEST, "user": "a" * 1_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_fault_is_an_error_with_a_reference_that_the_log_has_and_nothing_else(caplog):
    app = make_app(OpenAIApi(["127.0.0.1:1"], BrokenNames()))
    with caplog.at_level(logging.ERROR), TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/v1/models")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (500, "internal", "server_error")
    assert error["message"].rpartition(" ")[2] in caplog.text
    assert "secret" not in answer.text
