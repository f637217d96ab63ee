"""Scores of answers: what counts as correct, and which replies end the evaluation."""

import json

import pytest

from embedded_model.evaluation.scores import EvaluationError, mean_scores, score_reply
from embedded_model.examples.example import Example
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


def reply(text, guided=True):
    return Reply({"text_output": [text], "guided": [guided]}, "200")


def scores(example, answer):
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return score_reply(example, reply(text), is_guided=True).scores


@pytest.mark.parametrize("example", [FILL, RANK, JUDGE])
def test_every_score_of_the_correct_answer_is_one(example):
    assert set(scores(example, example.answer).values()) == {1.0}


@pytest.mark.parametrize("example", [FILL, RANK, JUDGE])
@pytest.mark.parametrize("answer", ["", "no JSON", "[]", "null", "7", '{"a": '])
def test_every_score_of_an_answer_of_the_wrong_type_is_zero(example, answer):
    assert set(scores(example, answer).values()) == {0.0}


def test_field_accuracy_is_the_fraction_of_correct_fields():
    assert scores(FILL, {"a": 1, "b": "y"}) == {"schema_valid": 1.0, "exact": 0.0, "field_accuracy": 0.5}


def test_an_exact_answer_has_the_same_number_types():
    assert scores(FILL, {"a": 1.0, "b": "x"})["exact"] == 0.0


def test_top1_needs_only_the_first_candidate():
    answer = RANK.answer | {"ranking": ["B", "A", "C"]}
    assert scores(RANK, answer) == {"schema_valid": 1.0, "exact": 0.0, "top1": 1.0, "full_order": 0.0}


def test_the_verdict_counts_when_the_answers_score_is_wrong():
    assert scores(JUDGE, JUDGE.answer | {"score": 1}) == {"schema_valid": 1.0, "exact": 0.0, "verdict": 1.0}


def test_an_error_can_not_be_scored():
    with pytest.raises(EvaluationError, match="unknown_task"):
        score_reply(FILL, Reply({}, "400", "unknown_task: no"), is_guided=True)


@pytest.mark.parametrize("guided", [True, False])
def test_an_answer_can_not_be_scored_when_guided_is_not_as_requested(guided):
    with pytest.raises(EvaluationError, match="guided"):
        score_reply(FILL, reply("{}", guided=not guided), is_guided=guided)


def test_the_mean_is_over_all_answers():
    answers = [score_reply(FILL, reply(text), is_guided=True) for text in ('{"a":1,"b":"x"}', "{}")]
    assert mean_scores(answers) == {"schema_valid": 0.5, "exact": 0.5, "field_accuracy": 0.5}
