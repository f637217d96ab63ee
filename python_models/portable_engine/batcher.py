"""In-flight batching: schedule → run → sample, one step at a time.

A sequence joins at the next step when a slot is free and leaves at the step that ends it. Joining prompts are prefilled
in their order, a bounded number of tokens a step, so that the others go on decoding.
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

PREFILL_TOKENS = 512  # a step


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
        with torch.inference_mode():
            self._cache = SlotCache(model, max_batch_size)
        self._graph = DecodeGraph(model, self._cache) if uses_graphs(model.device) else None
        self._free_slots = list(range(max_batch_size))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in the order in which they joined

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
            decoding.sort(key=lambda sequence: sequence.slot)
            self._take(self._decode(decoding), decoding)
        if chunks := self._next_chunks():
            logits = self._prefill(chunks)
            ready = [row for row, (sequence, _) in enumerate(chunks) if sequence.is_prefilled]
            if ready:
                self._take(logits[ready], [chunks[row][0] for row in ready])
        return self._retire()

    def _schedule(self) -> None:
        while self._waiting and self._free_slots:
            sequence = self._waiting.popleft()
            self._free_slots.sort()
            sequence.slot = self._free_slots.pop(0)
            self._running.append(sequence)
            try:
                self._cache.reserve(sequence.num_prompt_tokens + sequence.request.max_new_tokens)
            except RuntimeError:  # torch's own OutOfMemoryError is one, a CPU's allocator raises it as it is
                sequence.finish = Finish.NO_MEMORY

    def _decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """Logits [sequences, vocabulary] after each one's last token."""
        if self._graph is None:
            slots = [sequence.slot for sequence in sequences]
            positions = [[sequence.num_cached_tokens] for sequence in sequences]
            tokens = [[sequence.completion_token_ids[-1]] for sequence in sequences]
            logits = self._forward(slots, slots, positions, tokens)
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
        num_attended = max(sequence.num_cached_tokens for sequence in sequences) + 1
        return graph.run(token_ids, positions, num_attended)[[sequence.slot for sequence in sequences]]

    def _next_chunks(self) -> list[tuple[Sequence, list[int]]]:
        """The oldest prompts' next tokens, as many as a step takes; in slot order, as the cache wants them."""
        chunks, room = [], PREFILL_TOKENS
        for sequence in self._running:
            if room and sequence.finish is None and not sequence.is_prefilled:
                start = sequence.num_cached_tokens
                chunk = sequence.request.prompt_token_ids[start : start + room]
                chunks.append((sequence, chunk))
                room -= len(chunk)
        return sorted(chunks, key=lambda chunk: chunk[0].slot)

    def _prefill(self, chunks: list[tuple[Sequence, list[int]]]) -> torch.Tensor:
        """Logits [chunks, vocabulary] after each one's last token; they go through the model as one row."""
        now = self._clock()
        tokens: list[int] = []
        token_slots: list[int] = []
        positions: list[int] = []
        ends = []
        for sequence, chunk in chunks:
            sequence.first_scheduled_time_ns = sequence.first_scheduled_time_ns or now
            tokens += chunk
            token_slots += [sequence.slot] * len(chunk)
            positions += range(sequence.num_cached_tokens, sequence.num_cached_tokens + len(chunk))
            ends.append(len(tokens) - 1)
            sequence.num_cached_tokens += len(chunk)
        slots = [sequence.slot for sequence, _ in chunks]
        return self._forward(slots, token_slots, [positions], [tokens], torch.tensor(ends, device=self._model.device))

    def _forward(
        self,
        slots: list[int],
        token_slots: list[int],
        positions: list[list[int]],
        tokens: list[list[int]],
        last: torch.Tensor | int = 1,
    ) -> torch.Tensor:
        device = self._model.device
        has_neighbours_only = slots[-1] - slots[0] == len(slots) - 1  # a view of them, then, and no copy
        self._cache.select(
            slice(slots[0], slots[-1] + 1) if has_neighbours_only else torch.tensor(slots, device=device),
            torch.tensor(token_slots, device=device),
            torch.tensor(positions, device=device),
            max(map(max, positions)) + 1,
        )
        return self._cache.forward(self._model, torch.tensor(tokens, device=device), last)

    def _take(self, logits: torch.Tensor, sequences: list[Sequence]) -> None:
        self._mask(logits, [sequence.matcher for sequence in sequences])
        now = self._clock()
        for sequence, choice in zip(sequences, choose_tokens(logits, sequences), strict=True):
            if choice is None:
                sequence.finish = Finish.DEAD_END
            else:
                sequence.append(*choice, now)

    def _retire(self) -> list[Sequence]:
        finished = [sequence for sequence in self._running if sequence.finish is not None]
        self._running = [sequence for sequence in self._running if sequence.finish is None]
        self._free_slots.extend(sequence.slot for sequence in finished)
        ended_waiting = [sequence for sequence in self._waiting if sequence.finish is not None]
        self._waiting = deque(sequence for sequence in self._waiting if sequence.finish is None)
        return [*finished, *ended_waiting]
