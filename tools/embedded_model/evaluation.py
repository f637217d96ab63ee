"""How well the embedded model does its tasks, measured through a running ensemble."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jsonschema_rs

from embedded_model.example import Example
from embedded_model.examples import held_out_examples
from embedded_model.schemas import SCHEMAS
from llm_policy.release.manifest import TASKS, Task
from llm_policy.release.release import Release
from llmstack.client.ensemble_client import Headers, Inputs, Reply, Server, send_infer

# Distinct schemas of generate_json: more of them than a server takes new ones in a minute would only wait.
NUM_SCHEMAS = 60
# A call that got no answer, or 503, is sent again after so many seconds.
_RETRY_AFTER_S = (1.0, 5.0, 20.0)

Scores = dict[str, float]


class EvaluationError(RuntimeError):
    """The ensemble refused a prompt, or guided one that was not to be or the reverse: there is nothing to score."""


class TaskResult(NamedTuple):
    """One example and what the model made of it: each figure that applies is 0 or 1, or a share of the fields."""

    example: Example
    answer_text: str
    scores: Scores


def evaluate_task(
    server: Server,
    release: Release,
    headers: Headers,
    task: str,
    is_guided: bool,
    examples: list[Example],
    num_workers: int,
    report: Callable[[], None],
) -> list[TaskResult]:
    """Send every example, `num_workers` at a time; `report` is called after each.

    Raises:
        EvaluationError: a prompt was refused, or answered with guidance where none was asked for, or without.
    """

    def run(example: Example) -> TaskResult:
        inputs = _guided_inputs(example) if is_guided else _unguided_inputs(example, release.manifest.tasks[task])  # type: ignore[index]
        result = _score(example, _send(server, inputs, headers), is_guided)
        report()
        return result

    with ThreadPoolExecutor(num_workers) as workers:
        return list(workers.map(run, examples))


def mean_scores(results: list[TaskResult]) -> Scores:
    """The mean of each figure over all results, as a share of 1."""
    names = results[0].scores
    return {name: sum(result.scores[name] for result in results) / len(results) for name in names}


def all_examples(seed: int, count: int, is_familiar: bool) -> Iterator[tuple[str, list[Example]]]:
    """(task, its held-out examples), in the forms of training or in others."""
    for task in TASKS:
        yield task, held_out_examples(task, seed, count, NUM_SCHEMAS, is_familiar)


def _send(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """The reply; a server that is busy or being restarted is asked again."""
    for delay_s in _RETRY_AFTER_S:
        reply = send_infer(server, inputs, headers)
        if reply.status not in ("", "503"):
            return reply
        time.sleep(delay_s)
    return send_infer(server, inputs, headers)


def _guided_inputs(example: Example) -> Inputs:
    inputs = {**example.inputs(), "task": example.task}
    if example.schema is None:
        return inputs
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": json.dumps(example.schema)}
    return inputs | guide


def _unguided_inputs(example: Example, task: Task) -> Inputs:
    """The task's sampling without its schema: a request that names the task would be guided by it."""
    inputs: dict[str, Any] = {**example.inputs(), "temperature": task.temperature}
    if task.top_p is not None:
        inputs["top_p"] = task.top_p
    if task.max_tokens is not None:
        inputs["max_tokens"] = task.max_tokens
    return inputs


def _score(example: Example, reply: Reply, is_guided: bool) -> TaskResult:
    if reply.error:
        raise EvaluationError(reply.error)
    if reply.first("guided") is not is_guided:
        raise EvaluationError(f"guided is {reply.first('guided')} where it must be {is_guided}")
    text = str(reply.first("text_output"))
    answer = _parse(text)
    scores = {
        "schema_valid": float(_validator(example).is_valid(answer)),
        "exact": float(answer == example.answer and _same_types(answer, example.answer)),
    }
    return TaskResult(example, text, scores | _SCORERS[example.task](answer, example.answer))


def _parse(text: str) -> Any:
    """The answer, or an object that is none of the schemas' when it isn't JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _validator(example: Example) -> Any:
    registered = {"rank_candidates": "ranking", "judge": "verdict"}
    return jsonschema_rs.validator_for(example.schema or SCHEMAS[registered[example.task]])


def _same_types(answer: Any, wanted: dict[str, Any]) -> bool:
    """Python holds True equal to 1 and 2 equal to 2.0; JSON's readers may not."""
    return json.dumps(answer, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _member(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, dict) else None


def _fill_scores(answer: Any, wanted: dict[str, Any]) -> Scores:
    right = [isinstance(answer, dict) and name in answer and answer[name] == value for name, value in wanted.items()]
    return {"field_accuracy": sum(right) / len(right)}


def _ranking_scores(answer: Any, wanted: dict[str, Any]) -> Scores:
    ranking = _member(answer, "ranking")
    first = ranking[:1] if isinstance(ranking, list) else None
    return {"top1": float(first == wanted["ranking"][:1]), "full_order": float(ranking == wanted["ranking"])}


def _verdict_scores(answer: Any, wanted: dict[str, Any]) -> Scores:
    return {"verdict": float(_member(answer, "verdict") == wanted["verdict"])}


_SCORERS: dict[str, Callable[[Any, dict[str, Any]], Scores]] = {
    "generate_json": _fill_scores,
    "rank_candidates": _ranking_scores,
    "judge": _verdict_scores,
}
