"""Key and value states of up to `num_slots` sequences, side by side in one tensor a layer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A transformers cache whose rows join and leave independently.

    Before each forward pass `select` says which slots the batch's rows are, and where their tokens go. What a model
    calls is all here: transformers' own layers have other methods in every version from 4.53 to 5.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.capacity = 1_024
        self.num_attended = 0
        self._slots = torch.zeros(0, dtype=torch.long)
        self._positions = torch.zeros(0, dtype=torch.long)
        # By layer: keys and values [slots, kv heads, tokens, head size]; they grow by doubling.
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the step's states of a layer and give back all that its rows attend to."""
        return self._store(self._keys, layer_idx, key_states), self._store(self._values, layer_idx, value_states)

    def get_seq_length(self, *args: object) -> int:
        """Tokens before this step; the batcher brings its own positions."""
        return 0

    def reserve(self, num_tokens: int) -> None:
        """Make sure that a slot holds so many tokens."""
        while self.capacity < num_tokens:
            self.capacity *= 2

    def select(self, slots: torch.Tensor, positions: torch.Tensor, num_attended: int) -> None:
        """The next pass has rows `slots` [rows], whose tokens stand at `positions` [rows, tokens]; none of them looks
        at the token `num_attended` or a later one."""
        self._slots, self._positions, self.num_attended = slots, positions, num_attended

    def forward(self, model: Any, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] after the last of `token_ids` [rows, tokens] in the rows that are selected."""
        attended = torch.arange(self.num_attended, device=token_ids.device)
        logits: torch.Tensor = model(
            input_ids=token_ids,
            position_ids=self._positions,
            attention_mask=attended[None, None, None, :] <= self._positions[:, None, :, None],
            past_key_values=self,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1].float()

    def _store(self, layers: dict[int, torch.Tensor], layer_idx: int, new: torch.Tensor) -> torch.Tensor:
        """Put `new` [rows, heads, tokens, size] into its places; the selected rows up to the last attended token."""
        states = layers[layer_idx] = self._with_room(layers.get(layer_idx), new)
        states[self._slots[:, None], :, self._positions] = new.transpose(1, 2)
        if len(self._slots) == self.num_slots:
            return states[:, :, : self.num_attended]  # rows are always in slot order
        return states[self._slots, :, : self.num_attended]

    def _with_room(self, states: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        if states is None:
            return new.new_zeros((self.num_slots, new.shape[1], self.capacity, new.shape[3]))
        if (extra := self.capacity - states.shape[2]) > 0:
            return torch.nn.functional.pad(states, (0, 0, 0, extra))
        return states
