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
        self._text, self._log_probs = prompt_text, b""
        self._last_tokens_ns = 0

    @property
    def has_text(self) -> bool:
        """Whether there is something to send: text, or log-probabilities, which come with each token."""
        return bool(self._text or self._log_probs) and bool(self.completion_ids)

    def add(self, tokens: Tokens) -> float:
        """Take new tokens; returns the microseconds for each since the tokens before, 0 for the first ones."""
        ids, now_ns = read_ids(tokens.ids), time.monotonic_ns()
        if not ids:
            return 0.0
        self.completion_ids += ids
        self._text += self._detokenizer.add(ids)
        self._log_probs += tokens.log_probs
        since_ns, self._last_tokens_ns = now_ns - (self._last_tokens_ns or now_ns), now_ns
        return since_ns / len(ids) / 1_000

    def take_chunk(self) -> Chunk:
        """What was not sent yet."""
        chunk = Chunk(self._text, len(self.completion_ids), self._log_probs)
        self._text, self._log_probs = "", b""
        return chunk

    def take_rest(self, answer: str) -> Chunk:
        """The last chunk: what `answer`, the whole text, has beyond what was sent."""
        num_sent = self._num_prompt_characters + self._detokenizer.num_characters - len(self._text)
        return self.take_chunk()._replace(text=answer[num_sent:])
