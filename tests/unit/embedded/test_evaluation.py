"""Scores of answers: what counts as right, and that a refusal stops the evaluation."""

import json

import pytest

from llmstack.embedded.evaluation import EvaluationError, _score, mean_scores
from llmstack.embedded.examples import Example
from llmstack.ensemble_client import Reply

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


def scores(example, answer):
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return _score(example, Reply({"text_output": [text]}, "200")).scores


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
        _score(FILL, Reply({}, "400", "unknown_task: no"))


def test_the_mean_is_over_all_results():
    results = [_score(FILL, Reply({"text_output": [text]}, "200")) for text in ('{"a":1,"b":"x"}', "{}")]
    assert mean_scores(results) == {"schema_valid": 0.5, "exact": 0.5, "field_accuracy": 0.5}
