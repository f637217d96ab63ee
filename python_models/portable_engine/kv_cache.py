"""Key and value states of up to `num_slots` sequences, side by side in one tensor a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache

INITIAL_CAPACITY = 1_024


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A transformers cache for `model` whose rows join and leave independently.

    Before each forward pass `select` says which slots take part, and where the tokens go. A pass has either one row for
    each slot, or a single row in which the tokens of several slots follow each other. What a model calls is all here:
    transformers' own layers have other methods in every version from 4.53 to 5.
    """

    def __init__(self, model: Any, num_slots: int) -> None:
        self.num_slots = num_slots
        self.capacity = INITIAL_CAPACITY
        self.num_growths = 0  # with each, tensors have moved
        self.num_attended = 0
        # By layer: keys and values [slots, kv heads, tokens, head size].
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        first = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self.select(slice(0, 1), first[0], first, 1)
        self.forward(model, first)  # allocates what every later growth starts from

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the step's states of a layer and give back all that its rows attend to."""
        if layer_idx not in self._layers:
            self._layers[layer_idx] = self._room(key_states), self._room(value_states)
        keys, values = self._layers[layer_idx]
        return self._store(keys, key_states), self._store(values, value_states)

    def get_seq_length(self, *args: object) -> int:
        """Tokens before this step; the batcher brings its own positions."""
        return 0

    def reserve(self, num_tokens: int) -> None:
        """Make sure that a slot holds so many tokens, by doubling.

        Raises:
            RuntimeError: there is no memory for it. The cache holds what it held before, and can go on.
        """
        capacity = self.capacity
        while capacity < num_tokens:
            capacity *= 2
        for number, states in self._layers.items():
            if (extra := capacity - states[0].shape[2]) > 0:  # both of a layer grow or, when memory is short, neither
                self._layers[number] = pad(states[0], (0, 0, 0, extra)), pad(states[1], (0, 0, 0, extra))
                self.num_growths += 1
        self.capacity = capacity  # only now: a layer that failed must not be relied on

    def select(
        self, slots: slice | torch.Tensor, token_slots: torch.Tensor, positions: torch.Tensor, num_attended: int
    ) -> None:
        """The next pass is of `slots`, in ascending order, and stores its tokens in `token_slots` [tokens] at
        `positions` [rows, tokens of a row]; none of them looks at the token `num_attended` or a later one."""
        self._slots, self._token_slots, self._positions, self.num_attended = slots, token_slots, positions, num_attended
        self._is_packed = len(positions) == 1 and len(token_slots) > 1

    def forward(self, model: Any, token_ids: torch.Tensor, last: torch.Tensor | int = 1) -> torch.Tensor:
        """Logits [tokens, vocabulary] after the tokens `last` of each row of `token_ids` [rows, tokens].

        `last` is a number of tokens at the end or a tensor of indices.
        """
        logits: torch.Tensor = model(
            input_ids=token_ids,
            position_ids=self._positions,
            attention_mask=self._mask(),
            past_key_values=self,
            use_cache=True,
            logits_to_keep=last,
        ).logits
        return logits.flatten(0, 1).float()

    def _mask(self) -> torch.Tensor:
        """What each token looks at, [rows, 1, tokens, attended]."""
        attended = torch.arange(self.num_attended, device=self._positions.device)
        if not self._is_packed:
            return attended <= self._positions[:, None, :, None]
        slots = torch.arange(self.num_slots, device=attended.device)[self._slots]
        is_own = self._token_slots[:, None, None] == slots[:, None]
        return (is_own & (attended <= self._positions[0, :, None, None])).flatten(1)[None, None]

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(self.num_slots, states.shape[1], INITIAL_CAPACITY, states.shape[3])

    def _store(self, states: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Put `new` [rows, heads, tokens, size] into its places; what the selected slots hold, as far as attended."""
        states[self._token_slots, :, self._positions.flatten()] = new.transpose(1, 2).flatten(0, 1)
        held = states[self._slots, :, : self.num_attended]
        return held.transpose(0, 1).flatten(1, 2)[None] if self._is_packed else held
