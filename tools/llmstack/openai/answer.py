"""Answers in OpenAI's form: whole ones and the chunks of streams, for chats and for texts.

The forms are msgspec structs: one definition encodes answers and makes the schemas of the OpenAPI document.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import UNSET, Struct, UnsetType

from llmstack.openai.triton_client import Piece

FinishReason = Literal["stop", "length"]
_FINGERPRINT_CHARS = 12


class Usage(Struct):
    """The numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PolicyReport(Struct):
    """What the policy has to say about the answer. `schema_valid` is null for one without a schema."""

    schema_valid: bool | None
    resolved_schema_id: str | None
    cost_usd: float
    flags: list[str]
    queue_delay_us: int | None


class TokenLogProb(Struct):
    """A token's log-probability. `token` is empty where the text belongs to the token before."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[None] = []


class ChatLogProbs(Struct):
    """The log-probabilities of a chat's answer."""

    content: list[TokenLogProb]
    refusal: None = None


class TextLogProbs(Struct):
    """The log-probabilities of a text's continuation; `text_offset` counts characters."""

    tokens: list[str]
    token_logprobs: list[float]
    text_offset: list[int]
    top_logprobs: None = None


class ChatAnswerMessage(Struct):
    """The answer of a chat."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Delta(Struct, omit_defaults=True):
    """What a chunk adds."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChoice(Struct):
    """The only choice of an answer."""

    message: ChatAnswerMessage
    finish_reason: FinishReason
    logprobs: ChatLogProbs | None = None
    index: int = 0


class ChatChunkChoice(Struct):
    """The only choice of a chunk."""

    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogProbs | None = None
    index: int = 0


class TextChoice(Struct):
    """The only choice of an answer or a chunk."""

    text: str
    finish_reason: FinishReason | None = None
    logprobs: TextLogProbs | None = None
    index: int = 0


class ChatCompletion(Struct):
    """A whole answer of a chat."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    llmstack: PolicyReport
    object: Literal["chat.completion"] = "chat.completion"


class ChatCompletionChunk(Struct):
    """A chunk of a chat's answer. The one with the finish reason has `llmstack`."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    llmstack: PolicyReport | UnsetType = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class TextCompletion(Struct):
    """The continuation of a text, or a chunk of it."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET
    llmstack: PolicyReport | UnsetType = UNSET
    object: Literal["text_completion"] = "text_completion"


class ModelCard(Struct):
    """A model of `/v1/models`."""

    id: str
    created: int = 0
    object: Literal["model"] = "model"
    owned_by: str = "llmstack"


class ModelList(Struct):
    """The answer of `/v1/models`."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class UsageSums(Struct, kw_only=True, omit_defaults=True):
    """Sums of rows: one for each text that was asked for. `cost_usd` is an exact decimal of dollars.

    `num_refused` is null where refused rows are not known by the group.
    """

    num_rows: int
    num_refused: int | None
    num_prompt_tokens: int
    num_completion_tokens: int
    cost_nano_usd: int
    cost_usd: str


class UsageGroup(UsageSums, kw_only=True, omit_defaults=True):
    """The sums of one group, which one of the first members names. The model of an unknown engine is null."""

    day: str | UnsetType = UNSET
    task: str | UnsetType = UNSET
    schema: str | UnsetType = UNSET
    tenant: str | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    engine_hash: str | UnsetType = UNSET


class UsageAnswer(Struct, kw_only=True):
    """The answer of `/v1/usage`. Of more groups than 1,000, `data` has those of the highest cost, `totals` all."""

    object: Literal["usage"] = "usage"
    tenant: str
    currency: str
    by: str
    since: str | None
    until: str | None
    data: list[UsageGroup]
    totals: UsageSums
    num_groups: int


class ErrorDetail(Struct):
    """What is wrong. `param` is the member of the request at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorDocument(Struct):
    """Every error's body."""

    error: ErrorDetail


_REPORT_HEADERS = {name: f"x-llmstack-{name.replace('_', '-')}" for name in PolicyReport.__struct_fields__}


class AnswerHead(NamedTuple):
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class AnswerForm(Protocol):
    """Builds the answers of one endpoint. `text_offset` is the number of characters before the piece."""

    id_prefix: str

    def whole(self, head: AnswerHead, pieces: Sequence[Piece], report: PolicyReport) -> Struct:
        """The whole answer."""

    def first(self, head: AnswerHead, usage: UnsetType | None) -> Struct | None:
        """The chunk before the text; None if there is none."""

    def chunk(self, head: AnswerHead, piece: Piece, text_offset: int, usage: UnsetType | None) -> Struct:
        """The chunk of one piece."""

    def usage_chunk(self, head: AnswerHead, usage: Usage) -> Struct:
        """The chunk after the last one."""


class ChatForm:
    """The answers of `/v1/chat/completions`."""

    id_prefix = "chatcmpl"

    def whole(self, head: AnswerHead, pieces: Sequence[Piece], report: PolicyReport) -> Struct:
        """The whole answer."""
        last = pieces[-1]
        message = ChatAnswerMessage("".join(piece.text for piece in pieces))
        choice = ChatChoice(message, finish_reason(last), _chat_log_probs(pieces))
        return ChatCompletion(*head, [choice], read_usage(last), report)

    def first(self, head: AnswerHead, usage: UnsetType | None) -> Struct | None:
        """The chunk with the role."""
        return ChatCompletionChunk(*head, [ChatChunkChoice(Delta("assistant", ""))], usage)

    def chunk(self, head: AnswerHead, piece: Piece, text_offset: int, usage: UnsetType | None) -> Struct:
        """The chunk of one piece."""
        delta = Delta(content=piece.text) if piece.text else Delta()
        choice = ChatChunkChoice(delta, _finish_reason_if_last(piece), _chat_log_probs([piece]))
        return ChatCompletionChunk(*head, [choice], usage, policy_report(piece) if piece.is_last else UNSET)

    def usage_chunk(self, head: AnswerHead, usage: Usage) -> Struct:
        """The chunk after the last one."""
        return ChatCompletionChunk(*head, [], usage)


class TextForm:
    """The answers of `/v1/completions`."""

    id_prefix = "cmpl"

    def whole(self, head: AnswerHead, pieces: Sequence[Piece], report: PolicyReport) -> Struct:
        """The whole answer."""
        last = pieces[-1]
        text = "".join(piece.text for piece in pieces)
        choice = TextChoice(text, finish_reason(last), _text_log_probs(pieces, 0))
        return TextCompletion(*head, [choice], read_usage(last), report)

    def first(self, head: AnswerHead, usage: UnsetType | None) -> Struct | None:
        """A text has no chunk before its first piece."""
        return None

    def chunk(self, head: AnswerHead, piece: Piece, text_offset: int, usage: UnsetType | None) -> Struct:
        """The chunk of one piece."""
        choice = TextChoice(piece.text, _finish_reason_if_last(piece), _text_log_probs([piece], text_offset))
        return TextCompletion(*head, [choice], usage, policy_report(piece) if piece.is_last else UNSET)

    def usage_chunk(self, head: AnswerHead, usage: Usage) -> Struct:
        """The chunk after the last one."""
        return TextCompletion(*head, [], usage)


def new_head(form: AnswerForm, model: str, engine_hash: str) -> AnswerHead:
    """The head of a new answer; the policy has compared `engine_hash` with the engine's."""
    short = engine_hash.rpartition(":")[2][:_FINGERPRINT_CHARS]
    return AnswerHead(f"{form.id_prefix}-{secrets.token_hex(16)}", int(time.time()), model, f"fp_{short}")


def read_usage(last: Piece) -> Usage:
    """The numbers of tokens in the last piece."""
    prompt, completion = int(last.first("num_input_tokens") or 0), last.num_tokens
    return Usage(prompt, completion, prompt + completion)


def policy_report(last: Piece) -> PolicyReport:
    """The report in the last piece."""
    schema_id = last.first("resolved_schema_id") or None
    return PolicyReport(
        schema_valid=last.first("schema_valid") if schema_id else None,
        resolved_schema_id=schema_id,
        cost_usd=float(last.first("cost_usd") or 0.0),
        flags=[flag for flag in last.outputs.get("flags", ()) if flag],
        queue_delay_us=last.first("queue_delay_us"),
    )


def report_headers(report: PolicyReport) -> dict[str, str]:
    """The report as response headers."""
    values = ((header, getattr(report, name)) for name, header in _REPORT_HEADERS.items())
    return {header: _header_text(value) for header, value in values if value is not None and value != []}


def finish_reason(last: Piece) -> FinishReason:
    """Why the answer ends."""
    return "length" if last.first("finish_reason") == "length" else "stop"


def _finish_reason_if_last(piece: Piece) -> FinishReason | None:
    return finish_reason(piece) if piece.is_last else None


def _header_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _tokens(pieces: Sequence[Piece]) -> list[tuple[str, float]]:
    """Each token with its log-probability. Of several tokens in one piece, the first has the text of all."""
    return [
        (piece.text if number == 0 else "", value) for piece in pieces for number, value in enumerate(piece.log_probs)
    ]


def _chat_log_probs(pieces: Sequence[Piece]) -> ChatLogProbs | None:
    tokens = _tokens(pieces)
    if not tokens:
        return None
    return ChatLogProbs([TokenLogProb(token, value, list(token.encode())) for token, value in tokens])


def _text_log_probs(pieces: Sequence[Piece], text_offset: int) -> TextLogProbs | None:
    tokens = _tokens(pieces)
    if not tokens:
        return None
    offsets, offset = [], text_offset
    for token, _ in tokens:
        offsets.append(offset)
        offset += len(token)
    return TextLogProbs([token for token, _ in tokens], [value for _, value in tokens], offsets)
