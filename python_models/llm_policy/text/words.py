"""Stop and bad words in TensorRT-LLM's form (its `to_word_list_format`): INT32 [2, n] per row.

The first line holds the token ids of all words, the second the end offset of each word. Ids are padded with 0, offsets
with -1.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import numpy.typing as npt

from llm_policy.errors import invalid_input

MAX_WORDS = 128
MAX_TOKENS_PER_WORD = 64

Words = tuple[tuple[int, ...], ...]


def check_words(words: Words, name: str) -> None:
    """Check the number of words and their lengths; `name` is the input's name in the error.

    Raises:
        InvalidRequest: `invalid_input` with the limit and the given count.
    """
    if len(words) > MAX_WORDS:
        raise invalid_input(f"{name} has {len(words)} words, limit {MAX_WORDS}")
    for number, word in enumerate(words):
        if not 1 <= len(word) <= MAX_TOKENS_PER_WORD:
            raise invalid_input(f"{name}[{number}] has {len(word)} tokens, allowed 1 to {MAX_TOKENS_PER_WORD}")


def pack_words(rows: list[Words]) -> npt.NDArray[np.int32]:
    """The words of all rows as one array [rows, 2, n]."""
    width = max(sum(map(len, words)) for words in rows)
    packed = np.empty((len(rows), 2, width), np.int32)
    packed[:, 0], packed[:, 1] = 0, -1
    for row, words in enumerate(rows):
        ids = [token for word in words for token in word]
        packed[row, 0, : len(ids)] = ids
        packed[row, 1, : len(words)] = list(accumulate(map(len, words)))
    return packed
