"""One request while the engine generates: what its client has got so far, and what it has not."""

from __future__ import annotations

import time
from typing import NamedTuple

from engine_process.messages import End, Generate, Tokens, read_ids
from llm_policy.ledger.row_record import RowRecord
from llm_policy.text.incremental_detokenizer import IncrementalDetokenizer


class Chunk(NamedTuple):
    """What one response adds: new text, the number of completion tokens so far, new log-probabilities (float32)."""

    text: str
    num_tokens: int
    log_probs: bytes


class Stream:
    """Collects an engine's tokens until they are taken: tokens that wait become one chunk.

    `record` is the row as it was admitted. `prompt_text` is the beginning of the answer if the row includes its prompt.
    """

    def __init__(
        self, record: RowRecord, request: Generate, detokenizer: IncrementalDetokenizer, prompt_text: str = ""
    ) -> None:
        self.record, self.request = record, request
        self.completion_ids: list[int] = []
        self.end: End | None = None
        self._detokenizer = detokenizer
        self._num_prompt_characters = len(prompt_text)
        self._prompt_text, self._log_probs = prompt_text, b""  # what is not taken yet; so are the next ones
        self._new_ids: list[int] = []
        self._last_tokens_ns = 0

    @property
    def has_new_tokens(self) -> bool:
        """Whether tokens came since the last chunk. They may make no text certain."""
        return bool(self._new_ids)

    def add(self, tokens: Tokens) -> float:
        """Take new tokens; returns the microseconds for each since the tokens before, 0 for the first ones."""
        ids, now_ns = read_ids(tokens.ids), time.monotonic_ns()
        if not ids:
            return 0.0
        self.completion_ids += ids
        self._new_ids += ids  # they become text when their stream has its turn, or never if it ended by then
        self._log_probs += tokens.log_probs
        since_ns, self._last_tokens_ns = now_ns - (self._last_tokens_ns or now_ns), now_ns
        return since_ns / len(ids) / 1_000

    def take_chunk(self) -> Chunk:
        """What was not taken yet."""
        text = self._prompt_text + self._detokenizer.add(self._new_ids)
        chunk = Chunk(text, len(self.completion_ids), self._log_probs)
        self._prompt_text, self._log_probs, self._new_ids = "", b"", []
        return chunk

    def take_rest(self, answer: str) -> Chunk:
        """The last chunk: what `answer`, the whole text, has beyond what was taken."""
        num_taken = self._num_prompt_characters - len(self._prompt_text) + self._detokenizer.num_characters
        chunk = Chunk(answer[num_taken:], len(self.completion_ids), self._log_probs)
        self._log_probs = b""
        return chunk
