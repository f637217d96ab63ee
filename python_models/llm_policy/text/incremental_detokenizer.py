"""The text of a completion while it grows, without a character that could still change."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable

from llm_policy.text.stop_word_matcher import StopWordMatcher
from llm_policy.text.words import Words

_new_decoder = codecs.getincrementaldecoder("utf-8")


class IncrementalDetokenizer:
    """Turns tokens into text as they come.

    A byte-level token is a fixed run of bytes, so the text of a completion is the UTF-8 text of its tokens' bytes,
    U+FFFD where they are none. Two things are held back: bytes that may begin a character, and tokens that may begin a
    stop word, which is no part of the answer. `token_bytes` gives the bytes of a token id.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop_words: Words = ()) -> None:
        self._token_bytes = token_bytes
        self._decoder = _new_decoder("replace")
        self._matcher = StopWordMatcher(stop_words) if stop_words else None
        self._held: deque[int] = deque()
        self.num_characters = 0
        """The length of all text returned so far."""

    def add(self, ids: Iterable[int]) -> str:
        """The text that `ids` make certain, possibly none."""
        text = self._decoder.decode(b"".join(map(self._token_bytes, self._release(ids))))
        self.num_characters += len(text)
        return text

    def _release(self, ids: Iterable[int]) -> Iterable[int]:
        """The tokens that can't be part of a stop word at the end any more."""
        if self._matcher is None:
            return ids
        released = []
        for token_id in ids:
            self._matcher.add(token_id)
            self._held.append(token_id)
            while len(self._held) > self._matcher.num_held:
                released.append(self._held.popleft())
        return released
