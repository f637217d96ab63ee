"""Cache growth: running out of memory fails only the request that needed it."""

import pytest
import torch

from portable_engine import kv_cache
from portable_engine.sequence import FinishReason
from tests.unit.portable_engine.tiny_qwen3 import decode, make_batcher, make_sequence

NUM_LAYERS = 2


def fail_growth_from(monkeypatch, failing_call):
    """Makes growth run out of memory from the `failing_call`-th tensor on."""
    num_calls = 0

    def pad(*arguments):
        nonlocal num_calls
        num_calls += 1
        if num_calls >= failing_call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.nn.functional.pad(*arguments)

    monkeypatch.setattr(kv_cache, "pad", pad)


@pytest.mark.parametrize("failing_call", [1, 2, 3, 2 * NUM_LAYERS])
def test_a_request_too_large_for_memory_fails_alone(monkeypatch, failing_call):
    batcher, small, huge, late = make_batcher(), make_sequence([5]), make_sequence([6], 2_000), make_sequence([7])
    expected = [decode(make_sequence([5]))[0], decode(make_sequence([7]))[0]]
    fail_growth_from(monkeypatch, failing_call)
    tokens = decode(small, huge, late, batcher=batcher)
    assert huge.finish_reason is FinishReason.OUT_OF_MEMORY
    assert [tokens[0], tokens[2]] == expected
    assert decode(make_sequence([5]), batcher=batcher) == expected[:1]


def test_a_cache_that_could_not_grow_grows_when_memory_is_available_again(monkeypatch):
    batcher = make_batcher()
    with monkeypatch.context() as patch:
        fail_growth_from(patch, 3)
        decode(make_sequence([6], 1_200), batcher=batcher)
    assert decode(make_sequence([6], 1_200), batcher=batcher) == decode(make_sequence([6], 1_200))


def test_growth_during_a_completion_does_not_change_its_tokens():
    batcher, first, long = make_batcher(), make_sequence([5, 9], 40), make_sequence([6], 1_100)
    alone = decode(make_sequence([5, 9], 40))[0]
    batcher.add(first)
    for _ in range(10):
        batcher.step()
    decode(long, batcher=batcher)
    assert first.completion_token_ids == alone
