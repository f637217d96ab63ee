"""The tensor cache: which tensors are shared, and which one is evicted."""

import numpy as np
import pytest

from llm_policy.steps.column import Column


@pytest.fixture
def tensor_cache(triton):
    return triton.tensor_cache


def text(value):
    return Column((value,), np.object_)


def test_equal_columns_share_one_tensor(tensor_cache):
    cache = tensor_cache.TensorCache()
    first = cache.tensor("end_id", Column((7, 8), np.int32))
    assert cache.tensor("end_id", Column((7, 8), np.int32)) is first
    assert first.as_numpy().tolist() == [[7], [8]]


def test_another_name_or_value_is_another_tensor(tensor_cache):
    cache = tensor_cache.TensorCache()
    tensors = {cache.tensor(name, Column((value,), np.int32)) for name in ("end_id", "pad_id") for value in (1, 2)}
    assert len(tensors) == 4


def test_only_columns_and_empty_arrays_are_cached(tensor_cache):
    cache = tensor_cache.TensorCache()
    empty, full = np.empty((1, 0), np.object_), np.ones((1, 2), np.int32)
    assert cache.tensor("flags", empty) is cache.tensor("flags", empty)
    assert cache.tensor("stop_words_list", full) is not cache.tensor("stop_words_list", full)


def test_the_least_recently_used_tensor_is_evicted(tensor_cache, monkeypatch):
    monkeypatch.setattr(tensor_cache, "MAX_CACHED_BYTES", 3 * 256)
    cache = tensor_cache.TensorCache()
    one, two, three = (cache.tensor("seed", Column((value,), np.uint64)) for value in (1, 2, 3))
    assert cache.tensor("seed", Column((1,), np.uint64)) is one
    cache.tensor("seed", Column((4,), np.uint64))
    assert cache.tensor("seed", Column((1,), np.uint64)) is one
    assert cache.tensor("seed", Column((3,), np.uint64)) is three
    assert cache.tensor("seed", Column((2,), np.uint64)) is not two


def test_a_tensor_larger_than_the_cache_is_not_cached(tensor_cache, monkeypatch):
    monkeypatch.setattr(tensor_cache, "MAX_CACHED_BYTES", 1_000)
    cache = tensor_cache.TensorCache()
    small = cache.tensor("finish_reason", text(b"stop"))
    large = cache.tensor("guided_decoding_guide", text(b"x" * 1_000))
    assert cache.tensor("guided_decoding_guide", text(b"x" * 1_000)) is not large
    assert cache.tensor("finish_reason", text(b"stop")) is small
