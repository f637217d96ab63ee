"""Sends held-out prompts through a running ensemble, with guided decoding and without, and scores the answers."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib import metadata
from typing import Any, NamedTuple

from embedded_model.evaluation.scores import ScoredAnswer, Scores, mean_scores, score_reply
from embedded_model.examples.example import Example
from embedded_model.examples.generator import held_out_examples
from llm_policy.release.manifest import TASKS, Task
from llm_policy.release.release import Release
from llmstack.client.ensemble_client import Headers, Inputs, Reply, Server, release_headers, send_infer

GUIDED, UNGUIDED = "guided", "unguided"
# Distinct schemas of generate_json. With more of them the prompts would wait for `max_adhoc_per_minute`.
_NUM_SCHEMAS = 60
# Delays before a call without an answer, or with 503, is sent again.
_RETRY_DELAYS_S = (1.0, 5.0, 20.0)
_PACKAGES = ("torch", "transformers", "xgrammar")

# task → GUIDED or UNGUIDED → scores
Report = dict[str, dict[str, Scores]]


class EvaluationSettings(NamedTuple):
    """Numbers of prompts per task, in distribution and out of it, their seed, and the number of concurrent calls."""

    num_prompts: int
    num_out_of_distribution: int
    seed: int
    concurrency: int


class Evaluation:
    """Evaluates the model of `release`, which `server` runs."""

    def __init__(self, server: Server, release: Release, settings: EvaluationSettings, api_key: str = "") -> None:
        self._server, self._release, self._settings = server, release, settings
        self._headers = release_headers(release, api_key)

    def run(
        self,
        is_out_of_distribution: bool,
        on_answer: Callable[[str, str], None] = lambda task, kind: None,
        on_answers: Callable[[list[ScoredAnswer]], None] = lambda answers: None,
    ) -> Report:
        """Evaluate all tasks; `on_answer(task, kind)` follows each answer, `on_answers` each task and kind.

        Raises:
            EvaluationError: a reply can't be scored.
        """
        settings = self._settings
        count = settings.num_out_of_distribution if is_out_of_distribution else settings.num_prompts
        report: Report = {}
        for task in TASKS:
            examples = held_out_examples(task, settings.seed, count, _NUM_SCHEMAS, is_out_of_distribution)
            report[task] = {}
            for kind in (GUIDED, UNGUIDED):
                answers = self._answers(examples, kind, on_answer)
                report[task][kind] = mean_scores(answers)
                on_answers(answers)
        return report

    def run_record(self) -> dict[str, Any]:
        """The engine, settings, versions and machine of this evaluation."""
        return {
            "engine_hash": self._release.manifest.engine.hash,
            "count": self._settings.num_prompts,
            "out_of_distribution_count": self._settings.num_out_of_distribution,
            "seed": self._settings.seed,
            "date": date.today().isoformat(),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }

    def _answers(self, examples: list[Example], kind: str, on_answer: Callable[[str, str], None]) -> list[ScoredAnswer]:
        tasks = {str(name): task for name, task in self._release.manifest.tasks.items()}

        def send(example: Example) -> ScoredAnswer:
            inputs = guided_inputs(example) if kind == GUIDED else unguided_inputs(example, tasks[example.task])
            answer = score_reply(example, send_with_retries(self._server, inputs, self._headers), kind == GUIDED)
            on_answer(example.task, kind)
            return answer

        with ThreadPoolExecutor(self._settings.concurrency) as workers:
            return list(workers.map(send, examples))


def send_with_retries(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """Send a prompt, again when the server is busy or restarting."""
    for delay_s in _RETRY_DELAYS_S:
        reply = send_infer(server, inputs, headers)
        if reply.status not in ("", "503"):
            return reply
        time.sleep(delay_s)
    return send_infer(server, inputs, headers)


def guided_inputs(example: Example) -> Inputs:
    """The prompt with its task, and with its schema as a guide if it has one."""
    inputs = {**example.inputs(), "task": example.task}
    if example.schema is None:
        return inputs
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": json.dumps(example.schema)}
    return inputs | guide


def unguided_inputs(example: Example, task: Task) -> Inputs:
    """The prompt with the task's sampling but without the task, whose registered schema would guide the answer."""
    inputs: dict[str, Any] = {**example.inputs(), "temperature": task.temperature}
    if task.top_p is not None:
        inputs["top_p"] = task.top_p
    if task.max_tokens is not None:
        inputs["max_tokens"] = task.max_tokens
    return inputs
