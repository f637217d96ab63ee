"""One sequence: its generation request and its decoding state."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

from portable_engine.failure import Failure


class FinishReason(Enum):
    """Why a sequence left the batch."""

    END = auto()
    STOP_WORD = auto()
    LENGTH = auto()
    CANCELLED = auto()
    NO_ALLOWED_TOKEN = auto()  # the guide, bad words and min_tokens exclude every token
    GUIDE_FAILED = auto()  # the matcher's `failure` says why
    OUT_OF_MEMORY = auto()  # the cache could not grow for its keys and values


class Matcher(Protocol):
    """A sequence's state in its guide."""

    @property
    def failure(self) -> Failure | None:
        """Why the sequence can't continue; None while it can."""

    def accept_token(self, token_id: int) -> bool:
        """Advance by one token. False if the guide does not allow it, or if the matcher failed."""

    def is_terminated(self) -> bool:
        """Whether the token that ends the output was accepted."""


@dataclass(frozen=True)
class SamplingParams:
    """One sequence's sampling parameters. The defaults are TensorRT-LLM's for an absent tensor; top_k 1 is greedy."""

    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 1
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen. As in TensorRT-LLM, top_k 0 with top_p 0 is greedy too."""
        return self.top_k == 1 or (self.top_k == 0 and self.top_p <= 0.0) or self.temperature <= 0.0


@dataclass(frozen=True)
class GenerationRequest:
    """One row of a Triton request. Stop words and bad words are tuples of token ids; an `end_id` below 0 is none."""

    prompt_token_ids: list[int]
    max_new_tokens: int
    end_id: int = -1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    guide_type: str = ""
    guide: str = ""
    return_log_probs: bool = False


@dataclass(eq=False)
class Sequence:
    """A generation request in flight. Times are nanoseconds of one monotonic clock."""

    request: GenerationRequest
    arrival_time_ns: int
    tenant: str = ""
    first_scheduled_time_ns: int = 0
    first_token_time_ns: int = 0
    last_token_time_ns: int = 0
    number: int = 0  # in the order of arrival
    slot: int = -1
    slot_since_ns: int = 0
    num_cached_tokens: int = 0
    saved_cache: Any = None  # keys and values of a displaced sequence
    completion_token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    matcher: Matcher | None = None
    generator: Any = None
    finish_reason: FinishReason | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Number of tokens in the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def is_prefilled(self) -> bool:
        """Whether the whole prompt has gone through the model."""
        return self.num_cached_tokens >= self.num_prompt_tokens

    def append(self, token_id: int, log_prob: float, now_ns: int) -> None:
        """Add one generated token, and set `finish_reason` if it ends the sequence."""
        if self.matcher is not None and not self.matcher.accept_token(token_id):
            self.fail_without_token()
            return
        self.completion_token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.first_token_time_ns = self.first_token_time_ns or now_ns
        self.last_token_time_ns = now_ns
        self.finish_reason = self._reason_to_finish(token_id)

    def fail_without_token(self) -> None:
        """Set `finish_reason` where no token is allowed, or where the guide failed."""
        has_failed = self.matcher is not None and self.matcher.failure is not None
        self.finish_reason = FinishReason.GUIDE_FAILED if has_failed else FinishReason.NO_ALLOWED_TOKEN

    def _reason_to_finish(self, token_id: int) -> FinishReason | None:
        generated = self.completion_token_ids
        if token_id == self.request.end_id:
            return FinishReason.END
        if any(tuple(generated[-len(word) :]) == word for word in self.request.stop_words):
            return FinishReason.STOP_WORD
        if self.matcher is not None and self.matcher.is_terminated():
            return FinishReason.END
        return FinishReason.LENGTH if len(generated) >= self.request.max_new_tokens else None
