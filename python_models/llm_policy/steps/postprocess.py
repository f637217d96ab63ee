"""Postprocess: detokenizes, validates, prices and measures the engine's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from llm_policy.guidance.answer_validator import AnswerValidator
from llm_policy.pricing import usd
from llm_policy.release.manifest import Manifest
from llm_policy.rules.row_input import Array
from llm_policy.steps.column import Column
from llm_policy.steps.decision import Decision, unpack_decisions

CLOCKS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


class Detokenizer(Protocol):
    """The part of a tokenizer that postprocess uses."""

    def decode(self, ids: Any) -> str:
        """The text of `ids` without control tokens."""


class Answer(NamedTuple):
    """One finished row."""

    decision: Decision
    text: str
    finish_reason: str
    num_output_tokens: int
    cost_nano_usd: int
    schema_valid: bool
    flags: list[str]
    queue_delay_us: int
    time_to_first_token_us: int
    total_time_us: int


class Postprocess:
    """The rules of one release for finished answers; `run` has no side effects."""

    def __init__(self, manifest: Manifest, tokenizer: Detokenizer) -> None:
        self._tokenizer = tokenizer
        self._validator = AnswerValidator(manifest.guidance.limits)
        self._price = manifest.prices.per_token
        self._max_cost_nano_usd = manifest.thresholds.max_cost_nano_usd
        self._max_queue_delay_us = manifest.thresholds.max_queue_delay_us
        self._engine_hash = manifest.engine.hash.encode()

    def run(self, inputs: Mapping[str, Array]) -> list[Answer]:
        """One answer per row of the engine's response."""
        decisions = self.decisions(inputs)
        clocks = list(zip(*(inputs[name].reshape(-1).tolist() for name in CLOCKS), strict=True))
        counts = inputs["num_output_tokens"].reshape(-1).tolist()
        lengths = inputs["sequence_length"].reshape(len(decisions), -1)[:, 0].tolist()
        beams = inputs["output_ids"]
        return [
            self._answer(decision, beams[row, 0, : lengths[row]].tolist(), counts[row], clocks[row])
            for row, decision in enumerate(decisions)
        ]

    def decisions(self, inputs: Mapping[str, Array]) -> list[Decision]:
        """Preprocess's decisions about the rows of a response."""
        return unpack_decisions(inputs["policy_decision"])

    def _answer(self, decision: Decision, ids: list[int], num_output_tokens: int, clock: tuple[int, ...]) -> Answer:
        prompt_ids = ids[: decision.num_prompt_tokens] if decision.includes_prompt else []
        completion = ids[len(prompt_ids) :]
        finish_reason, kept_ids = _finish(completion, num_output_tokens, decision)
        completion_text = self._tokenizer.decode(kept_ids)
        prompt_text = self._tokenizer.decode(prompt_ids) if prompt_ids else ""
        arrival, scheduled, first_token, last_token = clock
        is_valid = bool(decision.guide_kind) and self._validator.is_valid(
            decision.guide_kind, decision.guide_text, completion_text, complete=finish_reason == "stop"
        )
        cost = self._price.cost(decision.num_prompt_tokens, num_output_tokens)
        queue_delay_us = (scheduled - arrival) // 1_000
        return Answer(
            decision=decision,
            text=prompt_text + completion_text,
            finish_reason=finish_reason,
            num_output_tokens=num_output_tokens,
            cost_nano_usd=cost,
            schema_valid=is_valid,
            flags=self._flags(decision, finish_reason, is_valid, cost, queue_delay_us),
            queue_delay_us=queue_delay_us,
            time_to_first_token_us=(first_token - arrival) // 1_000,
            total_time_us=(last_token - arrival) // 1_000,
        )

    def _flags(
        self, decision: Decision, finish_reason: str, is_valid: bool, cost: int, queue_delay_us: int
    ) -> list[str]:
        flags = []
        if queue_delay_us > self._max_queue_delay_us:
            flags.append("queue_delay_breach")
        if cost > self._max_cost_nano_usd:
            flags.append("cost_breach")
        if finish_reason == "length":
            flags.append("truncated")
        elif decision.guide_kind and not is_valid:
            flags.append("schema_violation")
        return flags

    def pack(self, answers: list[Answer], requested: set[str]) -> dict[str, Array | Column]:
        """The requested outputs as tensors, by name."""
        tensors: dict[str, Array | Column] = {
            name: Column(tuple(map(value_of, answers)), data_type)
            for name, data_type, value_of in _COLUMNS
            if name in requested
        }
        if "engine_hash" in requested:
            tensors["engine_hash"] = Column((self._engine_hash,) * len(answers), np.object_)
        if "flags" in requested:
            tensors["flags"] = _pad_texts([answer.flags for answer in answers])
        return tensors


_COLUMNS: tuple[tuple[str, Any, Callable[[Answer], Any]], ...] = (
    ("text_output", np.object_, lambda answer: answer.text.encode()),
    ("finish_reason", np.object_, lambda answer: answer.finish_reason.encode()),
    ("cost_usd", np.float64, lambda answer: usd(answer.cost_nano_usd)),
    ("guided", np.bool_, lambda answer: bool(answer.decision.guide_kind)),
    ("resolved_schema_id", np.object_, lambda answer: answer.decision.schema_id.encode()),
    ("schema_valid", np.bool_, lambda answer: answer.schema_valid),
    ("queue_delay_us", np.int64, lambda answer: answer.queue_delay_us),
    ("time_to_first_token_us", np.int64, lambda answer: answer.time_to_first_token_us),
    ("total_time_us", np.int64, lambda answer: answer.total_time_us),
)


def _finish(completion: list[int], num_output_tokens: int, decision: Decision) -> tuple[str, list[int]]:
    """The finish reason, and the completion's ids without the end token or stop word.

    TensorRT-LLM leaves `end_id` out of its output, so an answer shorter than its limit counts as stopped. A cancelled
    request never gets here: Triton answers it with CANCELLED.
    """
    if completion and completion[-1] == decision.end_id:
        return "stop", completion[:-1]
    for word in decision.stop_words:
        if completion[-len(word) :] == word:
            return "stop", completion[: -len(word)]
    return ("length" if num_output_tokens >= decision.max_completion_tokens else "stop"), completion


def _pad_texts(rows: list[list[str]]) -> Array | Column:
    """Texts as one array [rows, longest row]; shorter rows are padded with empty texts."""
    width = max(map(len, rows))
    if width == 1:
        return Column(tuple(texts[0].encode() if texts else b"" for texts in rows), np.object_)
    padded = np.full((len(rows), width), b"", np.object_)
    for row, texts in enumerate(rows):
        padded[row, : len(texts)] = [text.encode() for text in texts]
    return padded
