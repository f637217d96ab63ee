"""In-flight batching: schedule → run the model → sample, one step at a time.

A sequence joins at a step with a slot for it (`fair_slots`) and leaves at the step that finishes it. Prompts are
prefilled in the order in which they got their slots, with a limited number of tokens per step, so that running
sequences continue to decode.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from portable_engine.decode_graph import DecodeGraph, uses_graphs
from portable_engine.fair_slots import FairSlots
from portable_engine.kv_cache import SlotCache
from portable_engine.sampling import sample_tokens
from portable_engine.sequence import FinishReason, Sequence

MAX_PREFILL_TOKENS = 512  # per step


class InFlightBatcher:
    """Decodes up to `max_batch_size` sequences of one model together. Not thread-safe: one thread calls it.

    `mask_logits` excludes tokens, in place, from logits [rows, vocabulary] by the rows' matchers. `clock` returns
    nanoseconds.
    """

    def __init__(
        self,
        model: Any,
        max_batch_size: int,
        mask_logits: Callable[[torch.Tensor, list[Any]], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._model = model
        self._mask_logits = mask_logits
        self._clock = clock
        with torch.inference_mode():
            self._cache = SlotCache(model, max_batch_size)
        self._graph = DecodeGraph(model, self._cache) if uses_graphs(model.device) else None
        self._free_slots = list(range(max_batch_size))
        self._waiting = FairSlots()
        self._running: list[Sequence] = []  # in the order in which they were scheduled

    @property
    def is_idle(self) -> bool:
        """Whether no sequence is waiting or running."""
        return not (self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it joins at the next step with a slot for it."""
        self._waiting.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Finish a sequence; the next step returns it."""
        sequence.finish_reason = sequence.finish_reason or FinishReason.CANCELLED

    def clear(self) -> None:
        """Remove every sequence, for use after a failed step."""
        self._waiting.clear()
        self._free_slots.extend(sequence.slot for sequence in self._running)
        self._running.clear()

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Generate one token for every prefilled sequence, prefill others, and return the finished sequences."""
        ended_waiting = self._waiting.remove_finished()
        self._schedule()
        decoding = [s for s in self._running if s.finish_reason is None and s.completion_token_ids and s.is_prefilled]
        if decoding:
            decoding.sort(key=lambda sequence: sequence.slot)
            self._sample(self._decode(decoding), decoding)
        if chunks := self._next_prefill_chunks():
            logits = self._prefill(chunks)
            prefilled = [row for row, (sequence, _) in enumerate(chunks) if sequence.is_prefilled]
            if prefilled:
                self._sample(logits[prefilled], [chunks[row][0] for row in prefilled])
        return [*self._remove_finished(), *ended_waiting]

    def _schedule(self) -> None:
        if not self._waiting:
            return
        now = self._clock()
        while self._free_slots or self._displace(now):
            sequence = self._waiting.take(self._running)
            if sequence is None:
                return
            self._free_slots.sort()
            sequence.slot = self._free_slots.pop(0)
            sequence.slot_since_ns = now
            self._running.append(sequence)
            try:
                self._cache.reserve(sequence.num_prompt_tokens + sequence.request.max_new_tokens)
                if sequence.saved_cache is not None:
                    self._cache.restore_slot(sequence.slot, sequence.saved_cache)
                    sequence.saved_cache = None
            except RuntimeError:  # on a GPU its subclass torch.OutOfMemoryError; the CPU allocator raises it directly
                sequence.finish_reason = FinishReason.OUT_OF_MEMORY

    def _displace(self, now_ns: int) -> bool:
        """Free the slot of the sequence that has to give it up; False if none has to."""
        sequence = self._waiting.displaced(self._running, now_ns)
        if sequence is None:
            return False
        try:
            sequence.saved_cache = self._cache.copy_slot(sequence.slot, sequence.num_cached_tokens)
        except RuntimeError:
            sequence.finish_reason = FinishReason.OUT_OF_MEMORY
            return False
        self._running.remove(sequence)
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
        self._waiting.put_back(sequence)
        return True

    def _decode(self, sequences: list[Sequence]) -> torch.Tensor:
        """Logits [sequences, vocabulary] after each sequence's last token."""
        if self._graph is None:
            slots = [sequence.slot for sequence in sequences]
            positions = [[sequence.num_cached_tokens] for sequence in sequences]
            tokens = [[sequence.completion_token_ids[-1]] for sequence in sequences]
            logits = self._forward(slots, slots, positions, tokens)
        else:
            logits = self._decode_with_graph(self._graph, sequences)
        for sequence in sequences:
            sequence.num_cached_tokens += 1
        return logits

    def _decode_with_graph(self, graph: DecodeGraph, sequences: list[Sequence]) -> torch.Tensor:
        token_ids, positions = [0] * self._cache.num_slots, [0] * self._cache.num_slots
        for sequence in self._running:  # a partly prefilled one gets a dummy token that its next chunk overwrites
            positions[sequence.slot] = sequence.num_cached_tokens
        for sequence in sequences:
            token_ids[sequence.slot] = sequence.completion_token_ids[-1]
        num_attended = max(sequence.num_cached_tokens for sequence in sequences) + 1
        return graph.run(token_ids, positions, num_attended)[[sequence.slot for sequence in sequences]]

    def _next_prefill_chunks(self) -> list[tuple[Sequence, list[int]]]:
        """The next prompt tokens to prefill, oldest slots first, up to the step's limit.

        They are returned in slot order, which the cache requires.
        """
        chunks, budget = [], MAX_PREFILL_TOKENS
        for sequence in self._running:
            if budget and sequence.finish_reason is None and not sequence.is_prefilled:
                start = sequence.num_cached_tokens
                chunk = sequence.request.prompt_token_ids[start : start + budget]
                chunks.append((sequence, chunk))
                budget -= len(chunk)
        return sorted(chunks, key=lambda chunk: chunk[0].slot)

    def _prefill(self, chunks: list[tuple[Sequence, list[int]]]) -> torch.Tensor:
        """Logits [chunks, vocabulary] after each chunk's last token. All chunks are packed into one row."""
        now = self._clock()
        tokens: list[int] = []
        token_slots: list[int] = []
        positions: list[int] = []
        last_indices = []
        for sequence, chunk in chunks:
            sequence.first_scheduled_time_ns = sequence.first_scheduled_time_ns or now
            tokens += chunk
            token_slots += [sequence.slot] * len(chunk)
            positions += range(sequence.num_cached_tokens, sequence.num_cached_tokens + len(chunk))
            last_indices.append(len(tokens) - 1)
            sequence.num_cached_tokens += len(chunk)
        slots = [sequence.slot for sequence, _ in chunks]
        logits_to_keep = torch.tensor(last_indices, device=self._model.device)
        return self._forward(slots, token_slots, [positions], [tokens], logits_to_keep)

    def _forward(
        self,
        slots: list[int],
        token_slots: list[int],
        positions: list[list[int]],
        tokens: list[list[int]],
        logits_to_keep: torch.Tensor | int = 1,
    ) -> torch.Tensor:
        device = self._model.device
        is_contiguous = slots[-1] - slots[0] == len(slots) - 1  # a slice selects a view, a tensor of indices copies
        self._cache.select(
            slice(slots[0], slots[-1] + 1) if is_contiguous else torch.tensor(slots, device=device),
            torch.tensor(token_slots, device=device),
            torch.tensor(positions, device=device),
            max(map(max, positions)) + 1,
        )
        return self._cache.forward(self._model, torch.tensor(tokens, device=device), logits_to_keep)

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> None:
        self._mask_logits(logits, [sequence.matcher for sequence in sequences])
        now = self._clock()
        for sequence, sampled in zip(sequences, sample_tokens(logits, sequences), strict=True):
            if sampled is None:
                sequence.fail_without_token()
            else:
                sequence.append(*sampled, now)

    def _remove_finished(self) -> list[Sequence]:
        finished = [sequence for sequence in self._running if sequence.finish_reason is not None]
        self._running = [sequence for sequence in self._running if sequence.finish_reason is None]
        self._free_slots.extend(sequence.slot for sequence in finished)
        return finished
