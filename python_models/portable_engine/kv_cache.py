"""Key and value states of up to `num_slots` sequences, side by side in one tensor a layer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """One layer: keys and values [slots, kv heads, tokens, head size]; it grows by doubling."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room for the first tokens."""
        _, heads, _, head_dim = key_states.shape
        shape = (self._cache.num_slots, heads, self._cache.capacity, head_dim)
        self.keys = key_states.new_zeros(shape)
        self.values = value_states.new_zeros(shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the step's states and give back all that its rows attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.keys.shape[2] < self._cache.capacity:
            extra = self._cache.capacity - self.keys.shape[2]
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))
        return self._cache.store(self.keys, key_states), self._cache.store(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(tokens, offset); the batcher brings its own mask."""
        return self._cache.num_attended, 0

    def get_seq_length(self) -> int:
        """Tokens before this step; the batcher brings its own positions."""
        return 0

    def get_max_length(self) -> int:
        """Tokens a slot may hold; -1 is no bound."""
        return -1


class SlotCache(Cache):  # type: ignore[misc]
    """A transformers cache whose rows join and leave independently.

    Before each forward pass `select` says which slots the batch's rows are, and where their tokens go.
    """

    def __init__(self, num_layers: int, num_slots: int) -> None:
        self.num_slots = num_slots
        self.capacity = 1_024
        self.num_attended = 0
        self._slots = torch.zeros(0, dtype=torch.long)
        self._positions = torch.zeros(0, dtype=torch.long)
        super().__init__(layers=[_SlotLayer(self) for _ in range(num_layers)])

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

    def store(self, states: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Put `new` [rows, heads, tokens, size] into its places; the selected rows up to the last attended token."""
        states[self._slots[:, None], :, self._positions] = new.transpose(1, 2)
        if len(self._slots) == self.num_slots:
            return states[:, :, : self.num_attended]  # rows are always in slot order
        return states[self._slots, :, : self.num_attended]
