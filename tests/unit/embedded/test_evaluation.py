"""Scores of answers: what counts as right, and that a refusal stops the evaluation."""

import io
import json

import pytest
from rich.console import Console

from embedded_model import evaluation
from embedded_model.evaluate_command import _show_wrong
from embedded_model.evaluation import EvaluationError, TaskResult, _score, mean_scores
from embedded_model.example import Example
from llmstack.client.ensemble_client import Reply

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FILL = Example("generate_json", "", "", {"a": 1, "b": "x"}, SCHEMA)
RANK = Example("rank_candidates", "", "", {"values": {"A": 3, "B": 1, "C": 2}, "ranking": ["B", "C", "A"]})
CHECKS = {"person": True, "amount": False, "date": True, "place": True}
JUDGE = Example("judge", "", "", {"checks": CHECKS, "failing_criterion": "amount", "verdict": "fail", "score": 7})


def answered(text, guided=True):
    return Reply({"text_output": [text], "guided": [guided]}, "200")


def scores(example, answer):
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return _score(example, answered(text), is_guided=True).scores


@pytest.mark.parametrize("example", [FILL, RANK, JUDGE])
def test_the_right_answer_scores_one_in_everything(example):
    assert set(scores(example, example.answer).values()) == {1.0}


@pytest.mark.parametrize("example", [FILL, RANK, JUDGE])
@pytest.mark.parametrize("answer", ["", "no JSON", "[]", "null", "7", '{"a": '])
def test_an_answer_of_the_wrong_kind_scores_nothing(example, answer):
    assert set(scores(example, answer).values()) == {0.0}


def test_half_of_the_fields_right_is_half_of_the_field_accuracy():
    assert scores(FILL, {"a": 1, "b": "y"}) == {"schema_valid": 1.0, "exact": 0.0, "field_accuracy": 0.5}


def test_a_number_of_another_kind_is_no_exact_match():
    assert scores(FILL, {"a": 1.0, "b": "x"})["exact"] == 0.0


def test_the_right_first_candidate_counts_without_the_right_order():
    answer = RANK.answer | {"ranking": ["B", "A", "C"]}
    assert scores(RANK, answer) == {"schema_valid": 1.0, "exact": 0.0, "top1": 1.0, "full_order": 0.0}


def test_the_verdict_counts_without_the_right_score():
    assert scores(JUDGE, JUDGE.answer | {"score": 1}) == {"schema_valid": 1.0, "exact": 0.0, "verdict": 1.0}


def test_a_refused_prompt_is_no_result():
    with pytest.raises(EvaluationError, match="unknown_task"):
        _score(FILL, Reply({}, "400", "unknown_task: no"), is_guided=True)


@pytest.mark.parametrize("guided", [True, False])
def test_an_answer_that_was_not_guided_as_asked_is_no_result(guided):
    with pytest.raises(EvaluationError, match="guided"):
        _score(FILL, answered("{}", guided=not guided), is_guided=guided)


@pytest.mark.parametrize("trouble", [Reply({}, "503", "overloaded: later"), Reply({}, "", "no answer: cut")])
def test_a_busy_or_lost_server_is_asked_again(monkeypatch, trouble):
    replies = [trouble, trouble, answered("{}")]
    monkeypatch.setattr(evaluation, "send_infer", lambda *call: replies.pop(0))
    monkeypatch.setattr(evaluation, "_RETRY_AFTER_S", (0.0, 0.0))
    assert evaluation._send(None, {}, {}).status == "200"


def test_a_refusal_is_not_sent_again(monkeypatch):
    replies = [Reply({}, "400", "unknown_task: no")]
    monkeypatch.setattr(evaluation, "send_infer", lambda *call: replies.pop(0))
    assert evaluation._send(None, {}, {}).status == "400"


def test_a_wrong_answer_that_looks_like_markup_is_shown_as_it_is():
    console = Console(file=io.StringIO(), width=200)
    _show_wrong([TaskResult(FILL, "[/no] [bold]x", {"exact": 0.0})], console, 1)
    assert "[/no] [bold]x" in console.file.getvalue()


def test_the_mean_is_over_all_results():
    results = [_score(FILL, answered(text), is_guided=True) for text in ('{"a":1,"b":"x"}', "{}")]
    assert mean_scores(results) == {"schema_valid": 0.5, "exact": 0.5, "field_accuracy": 0.5}
