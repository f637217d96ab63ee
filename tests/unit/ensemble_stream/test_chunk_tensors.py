"""The tensors of responses in mid-stream: right whatever was sent before; what repeats is the same object."""

import numpy as np
import pytest

from ensemble_stream.stream import Chunk
from tests import pb_utils

NAMES = ("text_output", "num_output_tokens", "is_last", "output_log_probs")


@pytest.fixture(scope="module")
def module():
    with pb_utils.installed("ensemble_stream.triton.chunk_tensors") as (imported,):
        yield imported


@pytest.fixture
def tensors(module):
    return module.ChunkTensors()


def values(created):
    return {tensor.name(): tensor.as_numpy().tolist() for tensor in created}


def test_each_chunk_has_its_own_values(tensors):
    for text, num_tokens in (("a", 1), ("b", 2), ("a", 2), ("ą" * 100, 3), ("", 3)):
        assert values(tensors.create(Chunk(text, num_tokens, b""), NAMES)) == {
            "text_output": [[text.encode()]],
            "num_output_tokens": [[num_tokens]],
            "is_last": [[False]],
        }


def test_only_requested_tensors_are_created(tensors):
    chunk = Chunk("a", 1, np.array([-0.5, -1.0], np.float32).tobytes())
    assert values(tensors.create(chunk, {"num_output_tokens"})) == {"num_output_tokens": [[1]]}
    assert values(tensors.create(chunk, NAMES))["output_log_probs"] == [[[-0.5, -1.0]]]


def test_equal_counts_share_their_tensor(tensors):
    (_, first, _), (_, second, _) = (tensors.create(Chunk(text, 7, b""), NAMES) for text in ("a", "b"))
    assert first is second


def test_no_more_counts_are_kept_than_the_limit(module, tensors):
    count = {"num_output_tokens"}
    (kept,) = tensors.create(Chunk("", 0, b""), count)
    for number in range(module.MAX_COUNTS):
        tensors.create(Chunk("", number + 1, b""), count)
    assert tensors.create(Chunk("", 0, b""), count)[0] is not kept


def test_equal_short_texts_share_their_tensor(tensors):
    (first, *_), (second, *_) = (tensors.create(Chunk(" the", number, b""), NAMES) for number in (1, 2))
    assert first is second


def test_long_texts_are_not_kept(module, tensors):
    text = "x" * (module.MAX_KEPT_CHARACTERS + 1)
    (first, *_), (second, *_) = (tensors.create(Chunk(text, number, b""), NAMES) for number in (1, 2))
    assert first is not second


def test_no_more_texts_are_kept_than_the_limit(module, tensors):
    names = {"text_output"}
    (kept,) = tensors.create(Chunk("first", 0, b""), names)
    for number in range(module.MAX_TEXTS):
        tensors.create(Chunk(str(number), 1, b""), names)
    assert tensors.create(Chunk("first", 0, b""), names)[0] is not kept
