"""Memory that runs out fails the request that asked for it."""

import pytest
import torch

from portable_engine import kv_cache
from portable_engine.sequence import Finish
from tests.unit.portable_engine.tiny_qwen3 import batcher, run, sequence

NUM_LAYERS = 2


def fail_at(monkeypatch, failing_call):
    """Growth finds no memory at its `failing_call`-th tensor and later; the returned list has the calls."""
    calls = []

    def pad(*arguments):
        calls.append(arguments)
        if len(calls) >= failing_call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.nn.functional.pad(*arguments)

    monkeypatch.setattr(kv_cache, "pad", pad)
    return calls


@pytest.mark.parametrize("failing_call", [1, 2, 3, 2 * NUM_LAYERS])
def test_a_request_without_room_fails_alone_and_small_ones_are_served_as_before(monkeypatch, failing_call):
    engine, small, huge, late = batcher(), sequence([5]), sequence([6], 2_000), sequence([7])
    expected = [run(sequence([5]))[0], run(sequence([7]))[0]]
    fail_at(monkeypatch, failing_call)
    tokens = run(small, huge, late, engine=engine)
    assert huge.finish is Finish.NO_MEMORY
    assert [tokens[0], tokens[2]] == expected
    assert run(sequence([5]), engine=engine) == expected[:1]


def test_a_cache_that_could_not_grow_grows_once_there_is_memory(monkeypatch):
    engine = batcher()
    with monkeypatch.context() as patch:
        fail_at(patch, 3)
        run(sequence([6], 1_200), engine=engine)
    assert run(sequence([6], 1_200), engine=engine) == run(sequence([6], 1_200))


def test_growth_in_the_midst_of_a_completion_changes_none_of_its_tokens():
    engine, first, long = batcher(), sequence([5, 9], 40), sequence([6], 1_100)
    alone = run(sequence([5, 9], 40))[0]
    engine.add(first)
    for _ in range(10):
        engine.step()
    run(long, engine=engine)
    assert first.completion_token_ids == alone
