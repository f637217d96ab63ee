"""Keys and values of up to `num_slots` sequences, in one key tensor and one value tensor per layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache

INITIAL_CAPACITY = 1_024


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A transformers cache for `model` with one slot per sequence, filled and freed independently.

    Before each forward pass `select` sets which slots take part and where their tokens are stored. A pass has either
    one row per slot, or a single packed row with the tokens of several slots. The class implements all methods that a
    model calls, because transformers' own cache layers differ in every version from 4.53 to 5.
    """

    def __init__(self, model: Any, num_slots: int) -> None:
        self.num_slots = num_slots
        self.capacity = INITIAL_CAPACITY
        self.num_growths = 0  # each growth reallocates tensors
        self.num_attended = 0
        # By layer: keys and values, each [slots, kv heads, capacity, head size].
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        zero = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self.select(slice(0, 1), zero[0], zero, 1)
        self.forward(model, zero)  # allocates the layers' initial tensors

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values; returns all keys and values that the pass attends to."""
        if layer_idx not in self._layers:
            self._layers[layer_idx] = self._allocate(key_states), self._allocate(value_states)
        keys, values = self._layers[layer_idx]
        return self._store(keys, key_states), self._store(values, value_states)

    def get_seq_length(self, *args: object) -> int:
        """Always 0: the batcher passes positions explicitly."""
        return 0

    def reserve(self, num_tokens: int) -> None:
        """Double the capacity until a slot can hold `num_tokens`.

        Raises:
            RuntimeError: not enough memory. The cache keeps its contents and remains usable.
        """
        capacity = self.capacity
        while capacity < num_tokens:
            capacity *= 2
        for number, (keys, values) in self._layers.items():
            if (extra := capacity - keys.shape[2]) > 0:  # a layer's keys and values grow together or not at all
                self._layers[number] = pad(keys, (0, 0, 0, extra)), pad(values, (0, 0, 0, extra))
                self.num_growths += 1
        self.capacity = capacity  # set last, so that it holds for every layer even if one could not grow

    def copy_slot(self, slot: int, num_tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A copy of a slot's first keys and values, by layer, in the host's memory.

        Raises:
            RuntimeError: not enough memory.
        """
        return [
            tuple(states[slot, :, :num_tokens].to("cpu", copy=True) for states in layer)  # type: ignore[misc]
            for layer in self._layers.values()
        ]

    def restore_slot(self, slot: int, saved: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Store the keys and values of `copy_slot` in a slot."""
        for layer, copies in zip(self._layers.values(), saved, strict=True):
            for states, copy in zip(layer, copies, strict=True):
                states[slot, :, : copy.shape[1]] = copy.to(states.device)

    def select(
        self, slots: slice | torch.Tensor, token_slots: torch.Tensor, positions: torch.Tensor, num_attended: int
    ) -> None:
        """Set the slots of the next pass and the places of its tokens.

        `slots` are in ascending order. Tokens are stored in `token_slots` [tokens] at `positions` [rows, tokens per
        row], and attend to positions below `num_attended`.
        """
        self._slots, self._token_slots, self._positions, self.num_attended = slots, token_slots, positions, num_attended
        self._is_packed = len(positions) == 1 and len(token_slots) > 1

    def forward(self, model: Any, token_ids: torch.Tensor, logits_to_keep: torch.Tensor | int = 1) -> torch.Tensor:
        """Run `model` on `token_ids` [rows, tokens]; returns logits [kept tokens of all rows, vocabulary].

        `logits_to_keep` is the number of tokens at the end of each row, or a tensor of indices into the row.
        """
        logits: torch.Tensor = model(
            input_ids=token_ids,
            position_ids=self._positions,
            attention_mask=self._attention_mask(),
            past_key_values=self,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        return logits.flatten(0, 1).float()

    def _attention_mask(self) -> torch.Tensor:
        """True where a token attends, [rows, 1, tokens, attended]."""
        attended = torch.arange(self.num_attended, device=self._positions.device)
        if not self._is_packed:
            return attended <= self._positions[:, None, :, None]
        slots = torch.arange(self.num_slots, device=attended.device)[self._slots]
        is_same_slot = self._token_slots[:, None, None] == slots[:, None]
        return (is_same_slot & (attended <= self._positions[0, :, None, None])).flatten(1)[None, None]

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(self.num_slots, states.shape[1], INITIAL_CAPACITY, states.shape[3])

    def _store(self, states: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Store `new` [rows, heads, tokens, size]; returns the attended states of the selected slots."""
        states[self._token_slots, :, self._positions.flatten()] = new.transpose(1, 2).flatten(0, 1)
        attended = states[self._slots, :, : self.num_attended]
        return attended.transpose(0, 1).flatten(1, 2)[None] if self._is_packed else attended
