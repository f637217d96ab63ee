"""Postprocess: detokenizes, validates, prices and measures the engine's answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from llm_policy.errors import Code, Unavailable
from llm_policy.guidance.answer_validator import AnswerValidator
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.pricing import usd
from llm_policy.release.manifest import Manifest
from llm_policy.rules.row_input import Array
from llm_policy.steps.column import Column
from llm_policy.steps.policy_decision import unpack_records

CLOCKS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


class Detokenizer(Protocol):
    """The part of a tokenizer that postprocess uses."""

    def decode(self, ids: Any) -> str:
        """The text of `ids` without control tokens."""


class Answer(NamedTuple):
    """One finished row and the text that its client receives."""

    record: RowRecord
    text: str


class Postprocess:
    """The rules of one release for finished answers; `run` has no side effects."""

    def __init__(self, manifest: Manifest, tokenizer: Detokenizer) -> None:
        self._tokenizer = tokenizer
        self._validator = AnswerValidator(manifest.guidance.limits)
        self._price = manifest.prices.per_token
        self._max_cost_nano_usd = manifest.thresholds.max_cost_nano_usd
        self._max_queue_delay_us = manifest.thresholds.max_queue_delay_us
        self._max_answer_us = int(manifest.engine.max_answer_s * 1e6)
        self._engine_hash = manifest.engine.hash.encode()

    def run(self, inputs: Mapping[str, Array], records: Sequence[RowRecord]) -> list[Answer]:
        """One answer per row of the engine's response; `records` are those that `records` finds in it."""
        clocks = list(zip(*(inputs[name].reshape(-1).tolist() for name in CLOCKS), strict=True))
        counts = inputs["num_output_tokens"].reshape(-1).tolist()
        lengths = inputs["sequence_length"].reshape(len(records), -1)[:, 0].tolist()
        beams = inputs["output_ids"]
        return [
            self.answer(record, beams[row, 0, : lengths[row]].tolist(), counts[row], clocks[row])
            for row, record in enumerate(records)
        ]

    def records(self, inputs: Mapping[str, Array]) -> list[RowRecord]:
        """The records of the rows as preprocess admitted them."""
        return unpack_records(inputs["policy_decision"])

    def deadline_error(self, answers: list[Answer], timeout_us: int) -> Unavailable | None:
        """The error of a request that took too long: its client gets no answer. None for any other.

        `timeout_us` is the client's own limit, 0 if it set none. An engine that keeps deadlines has ended there.
        """
        limit_us, name = self._max_answer_us, "max_answer_s"
        if 0 < timeout_us < limit_us:
            limit_us, name = timeout_us, "timeout"
        taken_us = max((answer.record.total_time_us for answer in answers), default=0)
        if taken_us < limit_us:
            return None
        return Unavailable(
            Code.DEADLINE_EXCEEDED, f"the answer took {taken_us / 1e6:.3f} s, limit {limit_us / 1e6:g} s ({name})"
        )

    def answer(self, record: RowRecord, ids: list[int], num_tokens: int, clock: tuple[int, ...]) -> Answer:
        """The answer of one row. `ids` begin with the prompt's if the row includes it; `clock` has `CLOCKS` in ns."""
        prompt_ids = ids[: record.num_prompt_tokens] if record.includes_prompt else []
        completion = ids[len(prompt_ids) :]
        finish_reason, kept_ids = _finish(completion, num_tokens, record)
        completion_text = self._tokenizer.decode(kept_ids)
        prompt_text = self._tokenizer.decode(prompt_ids) if prompt_ids else ""
        arrival, scheduled, first_token, last_token = clock
        finished = record._replace(
            finish_reason=finish_reason,
            num_completion_tokens=num_tokens,
            actual_nano_usd=self._price.cost(record.num_prompt_tokens, num_tokens),
            schema_valid=bool(record.guide_kind)
            and self._validator.is_valid(
                record.guide_kind, record.guide_text, completion_text, complete=finish_reason == "stop"
            ),
            queue_delay_us=(scheduled - arrival) // 1_000,
            time_to_first_token_us=(first_token - arrival) // 1_000,
            total_time_us=(last_token - arrival) // 1_000,
        )
        flags = self._flags(finished)
        return Answer(finished._replace(flags=flags) if flags else finished, prompt_text + completion_text)

    def _flags(self, record: RowRecord) -> tuple[str, ...]:
        flags = []
        if record.queue_delay_us > self._max_queue_delay_us:
            flags.append("queue_delay_breach")
        if record.actual_nano_usd > self._max_cost_nano_usd:
            flags.append("cost_breach")
        if record.finish_reason == "length":
            flags.append("truncated")
        elif record.guide_kind and not record.schema_valid:
            flags.append("schema_violation")
        return tuple(flags)

    def pack(self, answers: list[Answer], requested: Collection[str]) -> dict[str, Array | Column]:
        """The requested outputs as tensors, by name."""
        tensors: dict[str, Array | Column] = {
            name: Column(tuple(map(value_of, answers)), data_type)
            for name, data_type, value_of in _COLUMNS
            if name in requested
        }
        if "engine_hash" in requested:
            tensors["engine_hash"] = Column((self._engine_hash,) * len(answers), np.object_)
        if "flags" in requested:
            tensors["flags"] = _pad_texts([answer.record.flags for answer in answers])
        return tensors


def withheld(answers: list[Answer], code: Code) -> list[Answer]:
    """The answers of a request that gets an error and pays for its tokens. Unfinished text violates no schema."""
    kept = ("queue_delay_breach", "cost_breach")
    records = rejected((answer.record for answer in answers), code)
    return [
        Answer(record._replace(is_cut=True, flags=tuple(flag for flag in record.flags if flag in kept)), "")
        for record in records
    ]


_COLUMNS: tuple[tuple[str, Any, Callable[[Answer], Any]], ...] = (
    ("text_output", np.object_, lambda answer: answer.text.encode()),
    ("finish_reason", np.object_, lambda answer: answer.record.finish_reason.encode()),
    ("cost_usd", np.float64, lambda answer: usd(answer.record.actual_nano_usd)),
    ("guided", np.bool_, lambda answer: bool(answer.record.guide_kind)),
    ("resolved_schema_id", np.object_, lambda answer: answer.record.schema_id.encode()),
    ("schema_valid", np.bool_, lambda answer: answer.record.schema_valid),
    ("queue_delay_us", np.int64, lambda answer: answer.record.queue_delay_us),
    ("time_to_first_token_us", np.int64, lambda answer: answer.record.time_to_first_token_us),
    ("total_time_us", np.int64, lambda answer: answer.record.total_time_us),
)


def _finish(completion: list[int], num_tokens: int, record: RowRecord) -> tuple[str, list[int]]:
    """The finish reason, and the completion's ids without the end token or stop word.

    TensorRT-LLM leaves `end_id` out of its output, so an answer shorter than its limit counts as stopped. A cancelled
    request never gets here: Triton answers it with CANCELLED.
    """
    if completion and completion[-1] == record.end_id:
        return "stop", completion[:-1]
    for word in record.stop_words:
        if tuple(completion[-len(word) :]) == word:
            return "stop", completion[: -len(word)]
    return ("length" if num_tokens >= record.max_completion_tokens else "stop"), completion


def _pad_texts(rows: list[tuple[str, ...]]) -> Array | Column:
    """Texts as one array [rows, longest row]; shorter rows are padded with empty texts."""
    width = max(map(len, rows))
    if width == 1:
        return Column(tuple(texts[0].encode() if texts else b"" for texts in rows), np.object_)
    padded = np.full((len(rows), width), b"", np.object_)
    for row, texts in enumerate(rows):
        padded[row, : len(texts)] = [text.encode() for text in texts]
    return padded
