"""A tiny Qwen3 with random weights, and functions that run sequences through a batcher."""

from functools import cache
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from portable_engine.batcher import InFlightBatcher
from portable_engine.sequence import GenerationRequest, SamplingParams, Sequence

torch.set_num_threads(1)  # one step is shorter than the time to wake another thread

VOCAB_SIZE = 300
END = 7
PROMPTS = [[5, 9, 11], [3] * 20, list(range(40, 90)), [250]]


@cache
def tiny_model() -> Any:
    return make_model()


def make_model(max_position_embeddings: int = 2_048) -> Any:
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=max_position_embeddings,
        initializer_range=0.3,
    )
    return Qwen3ForCausalLM(config).eval()


class Clock:
    """Advances by `step_ns` per call, and once, at the call `jump_at`, by `jump_ns`."""

    def __init__(self, step_ns: int = 1, jump_at: int = 0, jump_ns: int = 0) -> None:
        self.now = 0
        self.step_ns = step_ns
        self._num_calls = 0
        self._jump_at, self._jump_ns = jump_at, jump_ns

    def __call__(self) -> int:
        self._num_calls += 1
        self.now += self._jump_ns if self._num_calls == self._jump_at else self.step_ns
        return self.now


class EvenTokens:
    """A matcher that allows even tokens."""

    failure = None

    def accept_token(self, token_id: int) -> bool:
        return token_id % 2 == 0

    def is_terminated(self) -> bool:
        return False


def mask_nothing(logits: torch.Tensor, matchers: list[Any]) -> None:
    """Leaves every row unguided."""


def mask_odd_tokens(logits: torch.Tensor, matchers: list[Any]) -> None:
    """Masks logits for `EvenTokens`."""
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            logits[row, 1::2] = -torch.inf


def make_batcher(max_batch_size: int = 4) -> InFlightBatcher:
    return InFlightBatcher(tiny_model(), max_batch_size, mask_nothing, Clock())


def make_sequence(prompt: list[int], max_new_tokens: int = 12, **changes: Any) -> Sequence:
    sampling = SamplingParams(**changes.pop("sampling", {}))
    tenant = changes.pop("tenant", "")
    request = GenerationRequest(prompt, max_new_tokens, sampling=sampling, **changes)
    return Sequence(request, arrival_time_ns=0, tenant=tenant)


def decode(*sequences: Sequence, batcher: InFlightBatcher | None = None) -> list[list[int]]:
    """Decode all sequences together; returns their completions."""
    batcher = batcher or make_batcher()
    for sequence in sequences:
        batcher.add(sequence)
    while not batcher.is_idle:
        batcher.step()
    return [sequence.completion_token_ids for sequence in sequences]
