"""Preprocess: turns a client's request into the engine's tensors, or raises one declared error.

header gate → unpack → task and sampling → prompt → token budget → cost → guide → tensors
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from llm_policy.errors import Code, InvalidRequest, PolicyError
from llm_policy.guidance.guide import EngineGuide, Guide, GuideResolver
from llm_policy.release.manifest import TASKS, Manifest, Task
from llm_policy.rules.budget import Budget
from llm_policy.rules.headers import HeaderGate, HeaderRejection
from llm_policy.rules.row_input import Array, RowInput, unpack_rows
from llm_policy.rules.sampling import Sampling, choose_sampling
from llm_policy.steps.column import Column
from llm_policy.steps.decision import Decision, pack_decisions
from llm_policy.steps.request_context import RequestContext, RowContext
from llm_policy.text.words import check_words, pack_words

Ids = npt.NDArray[np.int32]


class PromptEncoder(Protocol):
    """The part of a tokenizer that preprocess uses."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids that a client may use."""

    @property
    def eos_id(self) -> int:
        """Id of the token that ends an answer."""

    @property
    def pad_id(self) -> int:
        """Id of the token that pads a batch."""

    def encode_text(self, text: str) -> Ids:
        """Token ids of user text, in which no control token is recognised."""

    def encode_chat(self, messages: bytes, check_length: Callable[[str], None]) -> Ids:
        """Token ids of a JSON array of messages in the chat template; calls `check_length` with each content first."""

    def min_tokens_of(self, text: str) -> int:
        """A lower bound on the number of tokens in `text`, cheap for any length."""


class PreparedRow(NamedTuple):
    """One admitted row on its way to the engine."""

    input_ids: Ids
    sampling: Sampling
    guide: Guide | None
    bad_words: list[list[int]]
    pad_id: int
    decision: Decision


class Preprocess:
    """The rules of one release. `run` has no side effects besides filling its context, and never blocks."""

    def __init__(
        self, manifest: Manifest, tokenizer: PromptEncoder, guides: GuideResolver, canary_token: str = ""
    ) -> None:
        self._gate = HeaderGate(manifest.engine.hash, manifest.engine.quantisation, canary_token)
        self._tasks: dict[str, Task] = dict(manifest.tasks.items())
        self._tokenizer = tokenizer
        self._guides = guides
        self._budget = Budget(manifest)

    def run(
        self,
        inputs: Mapping[str, Array],
        parameters_json: str,
        context: RequestContext | None = None,
        admission_error: PolicyError | None = None,
    ) -> list[PreparedRow]:
        """The admitted rows of one request.

        `context` receives everything known about the request, also when it is rejected. `admission_error` is the error
        of requests while none is admitted; the headers are checked first, so that the context names the client. The
        canary ignores `overloaded`.

        Raises:
            PolicyError: the request is rejected; with several rows the text ends with the row's number.
        """
        context = context or RequestContext()
        context.set_num_rows(inputs)
        try:
            context.set_headers(self._gate.check(parameters_json))
        except HeaderRejection as rejection:
            context.set_headers(rejection.headers)
            raise
        if admission_error is not None and not (context.is_canary and admission_error.code is Code.OVERLOADED):
            raise admission_error
        row_inputs = unpack_rows(inputs)
        if len(row_inputs) == 1:
            return [self._prepare(0, row_inputs[0], context)]
        return [self._prepare_batch_row(number, row_input, context) for number, row_input in enumerate(row_inputs)]

    def _prepare_batch_row(self, number: int, row_input: RowInput, context: RequestContext) -> PreparedRow:
        try:
            return self._prepare(number, row_input, context)
        except PolicyError as error:
            raise type(error)(error.code, f"{error.detail} (row {number})") from None

    def _prepare(self, number: int, row_input: RowInput, context: RequestContext) -> PreparedRow:
        row_context = context.rows[number]
        task = self._task(row_input.task)
        row_context.task = row_input.task or ""
        sampling = choose_sampling(task, row_input.sampling)
        guide = self._guides.resolve(
            row_input.schema_id, row_input.guide_type, row_input.guide, task.schema_id if task else None
        )
        row_context.schema_id = guide.name if guide else ""
        input_ids = self._encode(row_input)
        num_prompt_tokens = row_context.num_prompt_tokens = len(input_ids)
        self._budget.check_prompt(num_prompt_tokens)
        limit = self._budget.completion_limit(num_prompt_tokens, row_input.max_tokens, task)
        if sampling.min_tokens is not None and sampling.min_tokens > limit:
            raise _invalid(f"min_tokens is {sampling.min_tokens}, more than the {limit} completion tokens allowed")
        decision = Decision(
            request_id=context.request_id,
            tenant=context.tenant,
            task=row_context.task,
            schema_id=row_context.schema_id,
            guide_kind=guide.kind if guide else "",
            guide_text=guide.text if guide else "",
            num_prompt_tokens=num_prompt_tokens,
            max_completion_tokens=limit,
            projected_nano_usd=self._project_cost(row_context, limit),
            end_id=self._token_id("end_id", row_input.end_id, self._tokenizer.eos_id),
            stop_words=self._encode_words("stop_words", row_input.stop_words),
            includes_prompt=not row_input.exclude_input_in_output,
            returns_log_probs=row_input.return_log_probs,
            trace_id=context.trace_id,
            is_canary=context.is_canary,
            row_number=number,
        )
        bad_words = self._encode_words("bad_words", row_input.bad_words)
        pad_id = self._token_id("pad_id", row_input.pad_id, self._tokenizer.pad_id)
        return PreparedRow(input_ids, sampling, guide, bad_words, pad_id, decision)

    def _project_cost(self, row_context: RowContext, max_completion_tokens: int) -> int:
        price = self._budget.price
        row_context.prompt_nano_usd = price.cost(row_context.num_prompt_tokens, 0)
        row_context.projected_nano_usd = price.cost(row_context.num_prompt_tokens, max_completion_tokens)
        return self._budget.project_cost(row_context.num_prompt_tokens, max_completion_tokens)

    def _task(self, name: str | None) -> Task | None:
        if name is None:
            return None
        task = self._tasks.get(name)
        if task is None:
            raise InvalidRequest(Code.UNKNOWN_TASK, f"task is not one of {', '.join(TASKS)}")
        return task

    def _encode(self, row_input: RowInput) -> Ids:
        if row_input.messages is not None:
            return self._tokenizer.encode_chat(row_input.messages, self._check_length)
        text = row_input.text_input or ""
        if not text:
            raise _invalid("text_input is empty, at least 1 character is required")
        self._check_length(text)
        return self._tokenizer.encode_text(text)

    def _check_length(self, text: str) -> None:
        """Reject a text that is certainly too long without tokenizing it."""
        self._budget.check_prompt(self._tokenizer.min_tokens_of(text), at_least=True)

    def _token_id(self, name: str, given: int | None, default: int) -> int:
        if given is None:
            return default
        if not 0 <= given < self._tokenizer.vocab_size:
            raise _invalid(f"{name} is {given}, allowed 0 to {self._tokenizer.vocab_size - 1}")
        return given

    def _encode_words(self, name: str, words: list[str]) -> list[list[int]]:
        if not words:
            return []
        encoded = [self._tokenizer.encode_text(word).tolist() if word else [] for word in words]
        check_words(encoded, name)
        return encoded

    def pack(self, rows: list[PreparedRow], engine_guides: list[EngineGuide | None]) -> dict[str, Array | Column]:
        """The engine's tensors for `rows`, plus one decision per row. An absent tensor keeps the engine's default.

        `engine_guides` has one entry per row: the guide in the engine's form, None for an unguided row.
        """
        decisions = [
            row.decision._replace(schema_id=engine_guide.schema_id) if engine_guide else row.decision
            for row, engine_guide in zip(rows, engine_guides, strict=True)
        ]
        pads = [row.pad_id for row in rows]
        always_on = Column((True,) * len(rows), np.bool_)
        tensors: dict[str, Array | Column] = {
            "input_ids": _pad([row.input_ids for row in rows], pads),
            "input_lengths": Column(tuple(d.num_prompt_tokens for d in decisions), np.int32),
            "request_output_len": Column(tuple(d.max_completion_tokens for d in decisions), np.int32),
            "end_id": Column(tuple(d.end_id for d in decisions), np.int32),
            "pad_id": Column(tuple(pads), np.int32),
            "return_num_input_tokens": always_on,
            "return_num_output_tokens": always_on,
            "return_perf_metrics": always_on,
            "exclude_input_in_output": Column(tuple(not d.includes_prompt for d in decisions), np.bool_),
            "policy_decision": pack_decisions(decisions),
        }
        _pack_sampling(tensors, [row.sampling for row in rows])
        _pack_words(tensors, "stop_words_list", [d.stop_words for d in decisions])
        _pack_words(tensors, "bad_words_list", [row.bad_words for row in rows])
        if any(d.returns_log_probs for d in decisions):
            tensors["return_log_probs"] = Column(tuple(d.returns_log_probs for d in decisions), np.bool_)
        if any(engine_guides):
            _pack_guides(tensors, engine_guides)
        return tensors


_OPTIONAL_SAMPLING = (
    # input, data type, the engine's default
    ("repetition_penalty", np.float32, 1.0),
    ("presence_penalty", np.float32, 0.0),
    ("frequency_penalty", np.float32, 0.0),
    ("min_tokens", np.int32, 1),
    ("seed", np.uint64, 0),
)


def _pack_sampling(tensors: dict[str, Array | Column], samplings: list[Sampling]) -> None:
    tensors["runtime_top_k"] = Column(tuple(s.top_k for s in samplings), np.int32)
    if any(s.top_k != 1 for s in samplings):
        tensors["temperature"] = Column(tuple(s.temperature for s in samplings), np.float32)
        tensors["runtime_top_p"] = Column(tuple(s.top_p for s in samplings), np.float32)
    for name, data_type, default in _OPTIONAL_SAMPLING:
        values = [getattr(s, name) for s in samplings]
        if values.count(None) < len(values):
            tensors[name] = Column(tuple(default if v is None else v for v in values), data_type)


def _pack_words(tensors: dict[str, Array | Column], name: str, rows: list[list[list[int]]]) -> None:
    if any(rows):
        tensors[name] = pack_words(rows)


def _pack_guides(tensors: dict[str, Array | Column], engine_guides: list[EngineGuide | None]) -> None:
    """An unguided row in a batch with guided rows gets an empty type, which the engine reads as no guide."""
    types = tuple(engine_guide.engine_type.encode() if engine_guide else b"" for engine_guide in engine_guides)
    texts = tuple(engine_guide.engine_text.encode() if engine_guide else b"" for engine_guide in engine_guides)
    tensors["guided_decoding_guide_type"] = Column(types, np.object_)
    tensors["guided_decoding_guide"] = Column(texts, np.object_)


def _pad(prompts: list[Ids], pads: list[int]) -> Ids:
    """Prompts of different lengths, padded to one array [rows, longest]."""
    if len(prompts) == 1:
        return prompts[0].reshape(1, -1)
    longest = max(len(ids) for ids in prompts)
    padded = np.empty((len(prompts), longest), np.int32)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = ids
        padded[row, len(ids) :] = pads[row]
    return padded


def _invalid(detail: str) -> InvalidRequest:
    return InvalidRequest(Code.INVALID_INPUT, detail)
