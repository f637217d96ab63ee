"""One sequence: what it was asked to generate and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Finish(Enum):
    """Why a sequence left the batch."""

    END = "end"
    STOP_WORD = "stop_word"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEAD_END = "dead_end"  # no token may follow
    NO_MEMORY = "no_memory"  # its keys and values have no room


@dataclass(frozen=True)
class SamplingParams:
    """One sequence's sampling; the defaults are what TensorRT-LLM does without the tensor. top_k 1 is greedy."""

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
        """Whether the likeliest token is always taken; TensorRT-LLM reads no top_k and no top_p as greedy."""
        return self.top_k == 1 or (self.top_k == 0 and self.top_p <= 0.0) or self.temperature <= 0.0


@dataclass(frozen=True)
class GenerationRequest:
    """What one row of a Triton request asks for. Words are token ids."""

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
    """A request in flight. Times are nanoseconds of one monotonic clock."""

    request: GenerationRequest
    arrival_time_ns: int
    first_scheduled_time_ns: int = 0
    first_token_time_ns: int = 0
    last_token_time_ns: int = 0
    slot: int = -1
    num_cached_tokens: int = 0
    completion_token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    matcher: Any = None
    generator: Any = None
    finish: Finish | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def is_prefilled(self) -> bool:
        """Whether the whole prompt has gone through the model."""
        return self.num_cached_tokens >= self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """The completion without the `end_id` that ended it, which TensorRT-LLM does not output either."""
        tokens = self.completion_token_ids
        return tokens[:-1] if tokens and tokens[-1] == self.request.end_id else tokens

    def append(self, token_id: int, log_prob: float, now_ns: int) -> None:
        """Take one generated token and find out whether it ends the sequence."""
        if self.matcher is not None and not self.matcher.accept_token(token_id):
            self.finish = Finish.DEAD_END
            return
        self.completion_token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.first_token_time_ns = self.first_token_time_ns or now_ns
        self.last_token_time_ns = now_ns
        self.finish = self._finish(token_id)

    def _finish(self, token_id: int) -> Finish | None:
        generated = self.completion_token_ids
        if token_id == self.request.end_id:
            return Finish.END
        if any(tuple(generated[-len(word) :]) == word for word in self.request.stop_words):
            return Finish.STOP_WORD
        if self.matcher is not None and self.matcher.is_terminated():
            return Finish.END
        return Finish.LENGTH if len(generated) >= self.request.max_new_tokens else None
