"""Sending prompts: a busy server is retried, an error is not."""

import pytest

from embedded_model.evaluation import run
from llmstack.client.ensemble_client import Reply

ANSWER = Reply({"text_output": ["{}"], "guided": [True]}, "200")


@pytest.mark.parametrize("failure", [Reply({}, "503", "overloaded: later"), Reply({}, "", "no answer: cut")])
def test_a_busy_or_unreachable_server_is_retried(monkeypatch, failure):
    replies = [failure, failure, ANSWER]
    monkeypatch.setattr(run, "send_infer", lambda *call: replies.pop(0))
    monkeypatch.setattr(run, "_RETRY_DELAYS_S", (0.0, 0.0))
    assert run.send_with_retries(None, {}, {}).status == "200"


def test_a_rejected_prompt_is_not_retried(monkeypatch):
    replies = [Reply({}, "400", "unknown_task: no")]
    monkeypatch.setattr(run, "send_infer", lambda *call: replies.pop(0))
    assert run.send_with_retries(None, {}, {}).status == "400"
