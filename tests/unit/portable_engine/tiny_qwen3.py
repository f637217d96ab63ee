"""A tiny Qwen3 with random weights, and a batcher to step it."""

from functools import cache
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from portable_engine.batcher import InFlightBatcher
from portable_engine.sequence import GenerationRequest, SamplingParams, Sequence

torch.set_num_threads(1)  # a step of it is shorter than waking another thread

VOCAB_SIZE = 300
END = 7


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
    """Counts up by one nanosecond a look."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def no_mask(logits: torch.Tensor, matchers: list[Any]) -> None:
    """Nothing is guided."""


def batcher(max_batch_size: int = 4, mask=no_mask) -> InFlightBatcher:
    return InFlightBatcher(tiny_model(), max_batch_size, mask, Clock())


def sequence(prompt: list[int], max_new_tokens: int = 12, **changes: Any) -> Sequence:
    sampling = SamplingParams(**changes.pop("sampling", {}))
    return Sequence(GenerationRequest(prompt, max_new_tokens, sampling=sampling, **changes), arrival_time_ns=0)


def run(*sequences: Sequence, engine: InFlightBatcher | None = None) -> list[list[int]]:
    """Decode all of them together; their completions."""
    engine = engine or batcher()
    for each in sequences:
        engine.add(each)
    while not engine.is_idle:
        engine.step()
    return [each.completion_token_ids for each in sequences]
