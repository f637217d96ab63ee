"""Stop and bad words in TensorRT-LLM's form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_policy.errors import InvalidRequest
from llm_policy.text.words import MAX_TOKENS_PER_WORD, MAX_WORDS, check_words, pack_words

WORDS = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), max_size=6)


def unpack(row):
    ids, ends = row.tolist()
    starts = [0, *ends]
    return [ids[start:end] for start, end in zip(starts, ends, strict=False) if end >= 0]


def test_ids_are_concatenated_and_end_offsets_padded():
    packed = pack_words([((7, 8), (9,))])
    assert packed.tolist() == [[[7, 8, 9], [2, 3, -1]]]
    assert packed.dtype == np.int32


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_packed_words_can_be_unpacked(rows):
    assert [unpack(row) for row in pack_words(rows)] == rows


@pytest.mark.parametrize("words", [[[]], [[1], []], [[1] * (MAX_TOKENS_PER_WORD + 1)], [[1]] * (MAX_WORDS + 1)])
def test_too_many_or_too_long_words_are_rejected(words):
    with pytest.raises(InvalidRequest, match=r"^invalid_input: stop_words"):
        check_words(words, "stop_words")
