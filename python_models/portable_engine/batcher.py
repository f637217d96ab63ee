"""In-flight batching: schedule → run → sample, one step at a time.

A sequence joins at the next step when a slot is free and leaves at the step that ends it. A joining prompt is
prefilled in chunks, one chunk a step, so that the others go on decoding.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from portable_engine.decode_graph import DecodeGraph, uses_graphs
from portable_engine.kv_cache import SlotCache
from portable_engine.sampling import choose_tokens
from portable_engine.sequence import Finish, Sequence

PREFILL_CHUNK_TOKENS = 512


class InFlightBatcher:
    """Decodes up to `max_batch_size` sequences of one model together. Not thread-safe: one thread steps it.

    `mask` rules tokens out of logits [rows, vocabulary] for the rows' matchers; `clock` gives nanoseconds.
    """

    def __init__(
        self,
        model: Any,
        max_batch_size: int,
        mask: Callable[[torch.Tensor, list[Any]], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._model = model
        self._mask = mask
        self._clock = clock
        self._cache = SlotCache(max_batch_size)
        self._graph = DecodeGraph(model, self._cache) if uses_graphs(model.device) else None
        self._free_slots = list(range(max_batch_size))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    @property
    def is_idle(self) -> bool:
        """Whether no sequence waits or runs."""
        return not (self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it joins at the next step with a free slot."""
        self._waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence now; the next step gives it back."""
        sequence.finish = sequence.finish or Finish.CANCELLED

    def clear(self) -> list[Sequence]:
        """Drop every sequence, for a caller whose step failed."""
        dropped = [*self._waiting, *self._running]
        self._waiting.clear()
        for sequence in self._running:
            self._free_slots.append(sequence.slot)
        self._running.clear()
        return dropped

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """One token for every sequence that is past its prompt; the sequences that ended."""
        self._schedule()
        decoding = [s for s in self._running if s.finish is None and s.completion_token_ids]
        if decoding:
            self._take(self._decode(decoding), decoding)
        prefilling = next((s for s in self._running if s.finish is None and not s.completion_token_ids), None)
        if prefilling is not None and (logits := self._prefill(prefilling)) is not None:
            self._take(logits, [prefilling])
        return self._retire()

    def _schedule(self) -> None:
        while self._waiting and self._free_slots:
            sequence = self._waiting.popleft()
            self._free_slots.sort()
            sequence.slot = self._free_slots.pop(0)
            self._cache.reserve(sequence.num_prompt_tokens + sequence.request.max_new_tokens)
            sequence.first_scheduled_time_ns = self._clock()
            self._running.append(sequence)
            self._running.sort(key=lambda running: running.slot)

    def _decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """Logits [sequences, vocabulary] after each one's last token."""
        if self._graph is None:
            tokens = [[sequence.completion_token_ids[-1]] for sequence in sequences]
            logits = self._forward(tokens, [[sequence.num_cached_tokens] for sequence in sequences], sequences)
        else:
            logits = self._replay(self._graph, sequences)
        for sequence in sequences:
            sequence.num_cached_tokens += 1
        return logits

    def _replay(self, graph: DecodeGraph, sequences: list[Sequence]) -> torch.Tensor:
        token_ids, positions = [0] * self._cache.num_slots, [0] * self._cache.num_slots
        for sequence in self._running:  # one in the midst of its prompt gets a token that its next chunk overwrites
            positions[sequence.slot] = sequence.num_cached_tokens
        for sequence in sequences:
            token_ids[sequence.slot] = sequence.completion_token_ids[-1]
        return graph.run(token_ids, positions)[[sequence.slot for sequence in sequences]]

    def _prefill(self, sequence: Sequence) -> torch.Tensor | None:
        """Logits after the prompt's last chunk, else None."""
        start = sequence.num_cached_tokens
        chunk = sequence.request.prompt_token_ids[start : start + PREFILL_CHUNK_TOKENS]
        logits = self._forward([chunk], [list(range(start, start + len(chunk)))], [sequence])
        sequence.num_cached_tokens += len(chunk)
        return logits if sequence.num_cached_tokens == sequence.num_prompt_tokens else None

    def _forward(self, tokens: list[list[int]], positions: list[list[int]], sequences: list[Sequence]) -> torch.Tensor:
        device = self._model.device
        slots = torch.tensor([sequence.slot for sequence in sequences], device=device)
        self._cache.select(slots, torch.tensor(positions, device=device), max(row[-1] for row in positions) + 1)
        return self._cache.forward(self._model, torch.tensor(tokens, device=device))

    def _take(self, logits: torch.Tensor, sequences: list[Sequence]) -> None:
        self._mask(logits, [sequence.matcher for sequence in sequences])
        chosen = choose_tokens(logits, sequences)
        now = self._clock()
        for sequence, (token_id, log_prob) in zip(sequences, chosen, strict=True):
            if sequence.matcher is not None:
                sequence.matcher.accept_token(token_id)
            sequence.append(token_id, log_prob, now)

    def _retire(self) -> list[Sequence]:
        finished = [sequence for sequence in self._running if sequence.finish is not None]
        self._running = [sequence for sequence in self._running if sequence.finish is None]
        self._free_slots.extend(sequence.slot for sequence in finished)
        ended_waiting = [sequence for sequence in self._waiting if sequence.finish is not None]
        self._waiting = deque(sequence for sequence in self._waiting if sequence.finish is None)
        return [*finished, *ended_waiting]
