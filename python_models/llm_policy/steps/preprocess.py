"""Preprocess: turns a client's request into the engine's tensors, or into one declared error.

header gate → tenant → unpack → task and sampling → prompt → token budget → cost → guide → tensors
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from llm_policy.errors import Code, InvalidRequest, PolicyError, invalid_input
from llm_policy.guidance.guide import EngineGuide, Guide, GuideResolver
from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.manifest import Manifest, Task
from llm_policy.rules.budget import Budget
from llm_policy.rules.headers import HeaderCheck, HeaderGate
from llm_policy.rules.row_input import MAX_BATCH_ROWS, Array, RowInput, unpack_rows
from llm_policy.rules.sampling import Sampling, choose_sampling
from llm_policy.rules.tenants import Identity, TenantDirectory, TenantGate
from llm_policy.steps.column import Column
from llm_policy.steps.policy_decision import pack_records
from llm_policy.text.words import Words, check_words, pack_words

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


class EngineRow(NamedTuple):
    """What only the engine needs to know about an admitted row."""

    input_ids: Ids
    sampling: Sampling
    guide: Guide | None
    bad_words: Words
    pad_id: int
    returns_log_probs: bool
    streams: bool


class PreparedRequest(NamedTuple):
    """What preprocess found out about one request; of a rejected one, what was known when a rule rejected it."""

    records: list[RowRecord]
    engine_rows: list[EngineRow]
    error: BaseException | None = None


class Preprocess:
    """The rules of one release. `run` has no side effects and never blocks.

    `streams` says whether the model sends the answer in pieces, which it does unless the client's `stream` is false.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: PromptEncoder,
        guides: GuideResolver,
        canary_token: str = "",
        *,
        streams: bool = False,
        requires_key: bool = False,
    ) -> None:
        self._streams = streams
        self._gate = HeaderGate(manifest.engine.hash, manifest.engine.quantisation, canary_token)
        self._tenant_gate = TenantGate(requires_key=requires_key)
        self._tasks: dict[str, Task] = dict(manifest.tasks.items())
        self._tokenizer = tokenizer
        self._guides = guides
        self._budget = Budget(manifest)

    def check(self, parameters_json: str) -> HeaderCheck:
        """What the headers among the request's parameters say."""
        return self._gate.check(parameters_json)

    def run(
        self,
        inputs: Mapping[str, Array],
        check: HeaderCheck,
        tenants: TenantDirectory,
        request_id: str = "",
        admission_error: PolicyError | None = None,
        refusal: Callable[[RowRecord], PolicyError | None] = lambda sender: None,
    ) -> PreparedRequest:
        """Apply the rules to one request: a record and an engine row for each of its rows, or the error.

        A rejected request has a record for each row too, but no engine rows. Its error is a PolicyError, whose text
        ends with the row's number if there are several rows; any other exception is a bug in a rule.

        `request_id` is the id that the protocol carried, if it may be logged; the header overrides it.
        `admission_error` is the error of requests while none is admitted, `refusal` returns that of a sender whose
        limits are reached; the canary has none. The sender is found first, so that the records name the client.
        """
        try:
            identity = self._identify(check, tenants)
        except BaseException as raised:
            return PreparedRequest(_first_records(check.sender._replace(tenant=""), request_id, inputs), [], raised)
        sender = identity.sender
        records = _first_records(sender, request_id, inputs)
        try:
            error = check.error() or identity.error or admission_error
            if error is None and not sender.is_canary:
                error = refusal(sender)
            if error is not None:
                return PreparedRequest(records, [], error)
            return PreparedRequest(records, self._prepare_rows(unpack_rows(inputs), records, identity))
        except BaseException as raised:
            return PreparedRequest(records, [], raised)

    def _identify(self, check: HeaderCheck, tenants: TenantDirectory) -> Identity:
        if check.sender.is_canary:
            return Identity(check.sender)
        return self._tenant_gate.identify(check.sender, check.keys, tenants)

    def _prepare_rows(
        self, row_inputs: list[RowInput], records: list[RowRecord], identity: Identity
    ) -> list[EngineRow]:
        """The engine rows of one request. Replaces each of `records` with one that has what was decided."""
        if len(row_inputs) > 1 and self._streams:
            raise invalid_input(f"the batch has {len(row_inputs)} rows, a stream has 1")
        if len(row_inputs) == 1:
            return [self._prepare(row_inputs[0], records, 0, identity)]
        return [
            self._prepare_batch_row(row_input, records, number, identity) for number, row_input in enumerate(row_inputs)
        ]

    def _prepare_batch_row(
        self, row_input: RowInput, records: list[RowRecord], number: int, identity: Identity
    ) -> EngineRow:
        try:
            return self._prepare(row_input, records, number, identity)
        except PolicyError as error:
            raise error.in_row(number) from None

    def _prepare(self, row_input: RowInput, records: list[RowRecord], number: int, identity: Identity) -> EngineRow:
        """Decide about one row. `records[number]` has each decision before the next one, which may reject the row."""
        if row_input.stream and not self._streams:
            raise invalid_input("stream is true, but this model answers once: send the request to ensemble_stream")
        task = self._task(row_input.task)
        record = records[number] = records[number]._replace(
            task=row_input.task or "", includes_prompt=not row_input.exclude_input_in_output
        )
        identity.check_task(row_input.task)
        sampling = choose_sampling(task, row_input.sampling)
        guide = self._guides.resolve(
            row_input.schema_id, row_input.guide_type, row_input.guide, task.schema_id if task else None
        )
        if guide is not None and guide.name:
            identity.check_schema(guide.name)
        if guide is not None:
            record = records[number] = record._replace(
                schema_id=guide.name, guide_kind=guide.kind, guide_text=guide.text
            )
        input_ids = self._encode(row_input)
        num_prompt_tokens = len(input_ids)
        record = records[number] = record._replace(num_prompt_tokens=num_prompt_tokens)
        self._budget.check_prompt(num_prompt_tokens)
        limit = self._budget.completion_limit(num_prompt_tokens, row_input.max_tokens, task)
        if sampling.min_tokens is not None and sampling.min_tokens > limit:
            raise invalid_input(f"min_tokens is {sampling.min_tokens}, more than the {limit} completion tokens allowed")
        record = records[number] = record._replace(
            max_completion_tokens=limit,
            prompt_nano_usd=self._budget.price.cost(num_prompt_tokens, 0),
            projected_nano_usd=self._budget.price.cost(num_prompt_tokens, limit),
        )
        self._budget.check_cost(record)
        records[number] = record._replace(
            end_id=self._token_id("end_id", row_input.end_id, self._tokenizer.eos_id),
            stop_words=self._encode_words("stop_words", row_input.stop_words),
        )
        return EngineRow(
            input_ids=input_ids,
            sampling=sampling,
            guide=guide,
            bad_words=self._encode_words("bad_words", row_input.bad_words),
            pad_id=self._token_id("pad_id", row_input.pad_id, self._tokenizer.pad_id),
            returns_log_probs=row_input.return_log_probs,
            streams=self._streams and row_input.stream is not False,
        )

    def _task(self, name: str | None) -> Task | None:
        if name is None:
            return None
        task = self._tasks.get(name)
        if task is None:
            raise InvalidRequest(Code.UNKNOWN_TASK, f"task is not one of {', '.join(self._tasks)}")
        return task

    def _encode(self, row_input: RowInput) -> Ids:
        if row_input.messages is not None:
            return self._tokenizer.encode_chat(row_input.messages, self._check_length)
        text = row_input.text_input or ""
        if not text:
            raise invalid_input("text_input is empty, at least 1 character is required")
        self._check_length(text)
        return self._tokenizer.encode_text(text)

    def _check_length(self, text: str) -> None:
        """Reject a text that is certainly too long without tokenizing it."""
        self._budget.check_prompt(self._tokenizer.min_tokens_of(text), at_least=True)

    def _token_id(self, name: str, given: int | None, default: int) -> int:
        if given is None:
            return default
        if not 0 <= given < self._tokenizer.vocab_size:
            raise invalid_input(f"{name} is {given}, allowed 0 to {self._tokenizer.vocab_size - 1}")
        return given

    def _encode_words(self, name: str, words: list[str]) -> Words:
        if not words:
            return ()
        encoded = tuple(tuple(self._tokenizer.encode_text(word).tolist()) if word else () for word in words)
        check_words(encoded, name)
        return encoded

    def pack(
        self, records: list[RowRecord], rows: list[EngineRow], engine_guides: list[EngineGuide | None]
    ) -> dict[str, Array | Column]:
        """The engine's tensors for `rows`, plus the records for postprocess. An absent tensor keeps the default.

        `engine_guides` has one entry per row: the guide in the engine's form, None for an unguided row.
        """
        pads = [row.pad_id for row in rows]
        always_on = Column((True,) * len(rows), np.bool_)
        tensors: dict[str, Array | Column] = {
            "input_ids": _pad([row.input_ids for row in rows], pads),
            "input_lengths": Column(tuple(record.num_prompt_tokens for record in records), np.int32),
            "request_output_len": Column(tuple(record.max_completion_tokens for record in records), np.int32),
            "end_id": Column(tuple(record.end_id for record in records), np.int32),
            "pad_id": Column(tuple(pads), np.int32),
            "return_num_input_tokens": always_on,
            "return_num_output_tokens": always_on,
            "return_perf_metrics": always_on,
            "exclude_input_in_output": Column(tuple(not record.includes_prompt for record in records), np.bool_),
            "policy_decision": pack_records(records),
        }
        _pack_sampling(tensors, [row.sampling for row in rows])
        _pack_words(tensors, "stop_words_list", [record.stop_words for record in records])
        _pack_words(tensors, "bad_words_list", [row.bad_words for row in rows])
        if any(row.returns_log_probs for row in rows):
            tensors["return_log_probs"] = Column(tuple(row.returns_log_probs for row in rows), np.bool_)
        if any(engine_guides):
            _pack_guides(tensors, engine_guides)
        return tensors


def with_schema_ids(records: list[RowRecord], engine_guides: list[EngineGuide | None]) -> list[RowRecord]:
    """The records with the schema id that an inline guide gets when it is compiled."""
    return [
        record._replace(schema_id=engine_guide.schema_id)
        if engine_guide and engine_guide.schema_id != record.schema_id
        else record
        for record, engine_guide in zip(records, engine_guides, strict=True)
    ]


def _first_records(sender: RowRecord, request_id: str, inputs: Mapping[str, Array]) -> list[RowRecord]:
    """A record for each row, counted without unpacking the inputs: invalid requests are recorded by row too."""
    if request_id and not sender.request_id:
        sender = sender._replace(request_id=request_id)
    array = next(iter(inputs.values()), None)
    num_rows = array.shape[0] if array is not None and array.ndim else 1
    if not 1 < num_rows <= MAX_BATCH_ROWS:
        return [sender]
    return [sender._replace(row_number=number) for number in range(num_rows)]


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


def _pack_words(tensors: dict[str, Array | Column], name: str, rows: list[Words]) -> None:
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
