"""Stop and bad words in the form that TensorRT-LLM takes: INT32 [2, n] a row.

Row 0 holds the words' token ids one after another, row 1 where each word ends; both are filled up, ids with 0 and ends
with -1 (TensorRT-LLM's `to_word_list_format`).
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import numpy.typing as npt

from llm_policy.errors import Code, InvalidRequest

MAX_WORDS = 128
MAX_TOKENS_PER_WORD = 64

Words = list[list[int]]


def check_words(words: Words, name: str) -> None:
    """Refuse what the engine should not be given; `name` is the input's.

    Raises:
        InvalidRequest: `invalid_input` with limit and count.
    """
    if len(words) > MAX_WORDS:
        raise InvalidRequest(Code.INVALID_INPUT, f"{name} has {len(words)} words, limit {MAX_WORDS}")
    for number, word in enumerate(words):
        if not 1 <= len(word) <= MAX_TOKENS_PER_WORD:
            raise InvalidRequest(
                Code.INVALID_INPUT, f"{name}[{number}] has {len(word)} tokens, allowed 1 to {MAX_TOKENS_PER_WORD}"
            )


def pack_words(rows: list[Words]) -> npt.NDArray[np.int32]:
    """The words of each row as one array [rows, 2, n]."""
    width = max(sum(map(len, words)) for words in rows)
    packed = np.empty((len(rows), 2, width), np.int32)
    packed[:, 0], packed[:, 1] = 0, -1
    for row, words in enumerate(rows):
        ids = [token for word in words for token in word]
        packed[row, 0, : len(ids)] = ids
        packed[row, 1, : len(words)] = list(accumulate(map(len, words)))
    return packed
