"""Scores of a reply against the correct answer of its example."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jsonschema_rs

from embedded_model.examples.example import Example
from embedded_model.release.schemas import SCHEMAS
from llmstack.client.ensemble_client import Reply

Scores = dict[str, float]
_REGISTERED_SCHEMAS = {"rank_candidates": "ranking", "judge": "verdict"}


class EvaluationError(RuntimeError):
    """A reply can't be scored: the prompt was rejected, or the answer was guided although it shouldn't be, or not."""


class ScoredAnswer(NamedTuple):
    """An example, the model's answer, and its scores: each is 0 or 1, or the fraction of correct fields."""

    example: Example
    answer_text: str
    scores: Scores


def score_reply(example: Example, reply: Reply, is_guided: bool) -> ScoredAnswer:
    """Score a reply to a prompt that was sent with guided decoding, or without.

    Raises:
        EvaluationError: the reply is an error, or `guided` differs from `is_guided`.
    """
    if reply.error:
        raise EvaluationError(reply.error)
    if reply.first("guided") is not is_guided:
        raise EvaluationError(f"guided is {reply.first('guided')}, expected {is_guided}")
    text = str(reply.first("text_output"))
    answer = _parse(text)
    scores = {
        "schema_valid": float(_validator(example).is_valid(answer)),
        "exact": float(answer == example.answer and _same_types(answer, example.answer)),
    }
    return ScoredAnswer(example, text, scores | _TASK_SCORES[example.task](answer, example.answer))


def mean_scores(answers: list[ScoredAnswer]) -> Scores:
    """The mean of each score."""
    names = answers[0].scores
    return {name: sum(answer.scores[name] for answer in answers) / len(answers) for name in names}


def _parse(text: str) -> Any:
    """The answer as a JSON value, or {}, which no schema here accepts, when it isn't JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _validator(example: Example) -> Any:
    return jsonschema_rs.validator_for(example.schema or SCHEMAS[_REGISTERED_SCHEMAS[example.task]])


def _same_types(answer: Any, expected: dict[str, Any]) -> bool:
    """Whether types agree too: Python says that True equals 1 and 2 equals 2.0."""
    return json.dumps(answer, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _member(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, dict) else None


def _field_scores(answer: Any, expected: dict[str, Any]) -> Scores:
    correct = [
        isinstance(answer, dict) and name in answer and answer[name] == value for name, value in expected.items()
    ]
    return {"field_accuracy": sum(correct) / len(correct)}


def _ranking_scores(answer: Any, expected: dict[str, Any]) -> Scores:
    ranking = _member(answer, "ranking")
    first = ranking[:1] if isinstance(ranking, list) else None
    return {"top1": float(first == expected["ranking"][:1]), "full_order": float(ranking == expected["ranking"])}


def _judge_scores(answer: Any, expected: dict[str, Any]) -> Scores:
    return {"verdict": float(_member(answer, "verdict") == expected["verdict"])}


_TASK_SCORES: dict[str, Callable[[Any, dict[str, Any]], Scores]] = {
    "generate_json": _field_scores,
    "rank_candidates": _ranking_scores,
    "judge": _judge_scores,
}
