"""Preprocess: from what a client sent to what the engine gets, or to one declared refusal.

header gate → unpack → task and sampling → prompt → token budget → cost → guide → tensors
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from llm_policy.errors import Code, InvalidRequest, PolicyError
from llm_policy.guidance.compile.guide_report import GuidePlan
from llm_policy.guidance.guide import Guide, GuideResolver
from llm_policy.release.manifest import TASKS, Manifest, Task
from llm_policy.rules.budget import Budget
from llm_policy.rules.headers import HeaderGate, HeaderRefusal
from llm_policy.rules.request import Array, Column, RowInput, unpack
from llm_policy.rules.sampling import Sampling, choose_sampling
from llm_policy.steps.decision import Decision, pack_decisions
from llm_policy.steps.request_context import RequestContext, RowContext
from llm_policy.text.words import check_words, pack_words

Ids = npt.NDArray[np.int32]


class PromptEncoder(Protocol):
    """What preprocess needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Ids a client may name."""

    @property
    def eos_id(self) -> int:
        """What ends an answer."""

    @property
    def pad_id(self) -> int:
        """What fills a batch."""

    def encode_text(self, text: str) -> Ids:
        """User text; no control token is ever recognised in it."""

    def encode_chat(self, messages: bytes, check_length: Callable[[str], None]) -> Ids:
        """A JSON array of messages through the chat template; each content goes through `check_length` first."""

    def min_tokens_of(self, text: str) -> int:
        """A lower bound on the tokens of `text`, cheap for any length."""


class PreparedRow(NamedTuple):
    """One admitted row on its way to the engine."""

    input_ids: Ids
    sampling: Sampling
    guide: Guide | None
    bad_words: list[list[int]]
    pad_id: int
    decision: Decision


class Preprocess:
    """The rules of one release. `run` has no side effects and never waits."""

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
        facts: RequestContext | None = None,
        closed: PolicyError | None = None,
    ) -> list[PreparedRow]:
        """The admitted rows of one request; `facts` is filled with what is known, however far it gets.

        `closed` is why no request is taken now; the headers are checked all the same, so that it is known whose it was.

        Raises:
            PolicyError: the request is refused; with several rows the text names the row at fault.
        """
        facts = facts or RequestContext()
        facts.expect_rows(inputs)
        try:
            facts.take(self._gate.check(parameters_json))
        except HeaderRefusal as refusal:
            facts.take(refusal.headers)
            raise
        if closed is not None and not (facts.is_canary and closed.code is Code.OVERLOADED):
            raise closed
        asks = unpack(inputs)
        if len(asks) == 1:
            return [self._row(0, asks[0], facts)]
        return [self._numbered_row(number, ask, facts) for number, ask in enumerate(asks)]

    def _numbered_row(self, number: int, ask: RowInput, facts: RequestContext) -> PreparedRow:
        try:
            return self._row(number, ask, facts)
        except PolicyError as error:
            raise type(error)(error.code, f"{error.detail} (row {number})") from None

    def _row(self, number: int, ask: RowInput, facts: RequestContext) -> PreparedRow:
        known = facts.rows[number]
        task = self._task(ask.task)
        known.task = ask.task or ""
        sampling = choose_sampling(task, ask.sampling)
        guide = self._guides.resolve(ask.schema_id, ask.guide_type, ask.guide, task.schema_id if task else None)
        known.schema_id = guide.name if guide else ""
        input_ids = self._encode(ask)
        num_prompt_tokens = known.num_prompt_tokens = len(input_ids)
        self._budget.check_prompt(num_prompt_tokens)
        limit = self._budget.completion_limit(num_prompt_tokens, ask.max_tokens, task)
        if sampling.min_tokens is not None and sampling.min_tokens > limit:
            raise _invalid(f"min_tokens is {sampling.min_tokens}, more than the {limit} completion tokens allowed")
        decision = Decision(
            request_id=facts.request_id,
            tenant=facts.tenant,
            task=ask.task or "",
            schema_id=guide.name if guide else "",
            guide_kind=guide.kind if guide else "",
            guide_text=guide.text if guide else "",
            num_prompt_tokens=num_prompt_tokens,
            max_completion_tokens=limit,
            projected_nano_usd=self._project_cost(known, limit),
            end_id=self._token_id("end_id", ask.end_id, self._tokenizer.eos_id),
            stop_words=self._encode_words("stop_words", ask.stop_words),
            includes_prompt=not ask.exclude_input_in_output,
            returns_log_probs=ask.return_log_probs,
            trace_id=facts.trace_id,
            is_canary=facts.is_canary,
            row_number=number,
        )
        bad_words = self._encode_words("bad_words", ask.bad_words)
        pad_id = self._token_id("pad_id", ask.pad_id, self._tokenizer.pad_id)
        return PreparedRow(input_ids, sampling, guide, bad_words, pad_id, decision)

    def _project_cost(self, known: RowContext, max_completion_tokens: int) -> int:
        price = self._budget.price
        known.prompt_nano_usd = price.cost(known.num_prompt_tokens, 0)
        known.projected_nano_usd = price.cost(known.num_prompt_tokens, max_completion_tokens)
        return self._budget.project_cost(known.num_prompt_tokens, max_completion_tokens)

    def _task(self, name: str | None) -> Task | None:
        if name is None:
            return None
        task = self._tasks.get(name)
        if task is None:
            raise InvalidRequest(Code.UNKNOWN_TASK, f"task is not one of {', '.join(TASKS)}")
        return task

    def _encode(self, ask: RowInput) -> Ids:
        if ask.messages is not None:
            return self._tokenizer.encode_chat(ask.messages, self._check_length)
        text = ask.text_input or ""
        if not text:
            raise _invalid("text_input is empty, at least 1 character is required")
        self._check_length(text)
        return self._tokenizer.encode_text(text)

    def _check_length(self, text: str) -> None:
        """Refuse a hopelessly long text without tokenizing it."""
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

    def pack(self, rows: list[PreparedRow], plans: list[GuidePlan | None]) -> dict[str, Array | Column]:
        """The engine's tensors for `rows`, plus one decision a row. Absent means the engine's default.

        `plans` has what the engine gets for each row's guide, None for an unguided row.
        """
        decisions = [
            row.decision._replace(schema_id=plan.schema_id) if plan else row.decision
            for row, plan in zip(rows, plans, strict=True)
        ]
        pads = [row.pad_id for row in rows]
        switch = Column((True,) * len(rows), np.bool_)
        tensors: dict[str, Array | Column] = {
            "input_ids": _pad([row.input_ids for row in rows], pads),
            "input_lengths": Column(tuple(d.num_prompt_tokens for d in decisions), np.int32),
            "request_output_len": Column(tuple(d.max_completion_tokens for d in decisions), np.int32),
            "end_id": Column(tuple(d.end_id for d in decisions), np.int32),
            "pad_id": Column(tuple(pads), np.int32),
            "return_num_input_tokens": switch,
            "return_num_output_tokens": switch,
            "return_perf_metrics": switch,
            "exclude_input_in_output": Column(tuple(not d.includes_prompt for d in decisions), np.bool_),
            "policy_decision": pack_decisions(decisions),
        }
        _pack_sampling(tensors, [row.sampling for row in rows])
        _pack_words(tensors, "stop_words_list", [d.stop_words for d in decisions])
        _pack_words(tensors, "bad_words_list", [row.bad_words for row in rows])
        if any(d.returns_log_probs for d in decisions):
            tensors["return_log_probs"] = Column(tuple(d.returns_log_probs for d in decisions), np.bool_)
        if any(plans):
            _pack_guides(tensors, plans)
        return tensors


_OPTIONAL_SAMPLING = (
    # input, data type, what the engine does without it
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
    for name, data_type, neutral in _OPTIONAL_SAMPLING:
        values = [getattr(s, name) for s in samplings]
        if values.count(None) < len(values):
            tensors[name] = Column(tuple(neutral if v is None else v for v in values), data_type)


def _pack_words(tensors: dict[str, Array | Column], name: str, rows: list[list[list[int]]]) -> None:
    if any(rows):
        tensors[name] = pack_words(rows)


def _pack_guides(tensors: dict[str, Array | Column], plans: list[GuidePlan | None]) -> None:
    """An unguided row among guided ones gets an empty type, which the engine reads as no guide."""
    types = tuple(plan.engine_type.encode() if plan else b"" for plan in plans)
    texts = tuple(plan.engine_text.encode() if plan else b"" for plan in plans)
    tensors["guided_decoding_guide_type"] = Column(types, np.object_)
    tensors["guided_decoding_guide"] = Column(texts, np.object_)


def _pad(prompts: list[Ids], pads: list[int]) -> Ids:
    """Prompts of different lengths as one array [rows, longest]."""
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
