"""The decoding step of all slots as one CUDA graph.

A step of a large model is thousands of kernels that take microseconds each; launched one by one from Python they cost
more than the work. A graph is launched once. What it reads and writes must stay where it is, so it always decodes every
slot over the cache's whole capacity: rows nobody needs cost nothing where the weights' way through memory is the bound.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from portable_engine.kv_cache import SlotCache

CUDA_GRAPHS = "LLMSTACK_ENGINE_CUDA_GRAPHS"
_NUM_WARM_UPS = 2


def uses_graphs(device: torch.device) -> bool:
    """Whether steps on `device` are captured: on a GPU, unless `$LLMSTACK_ENGINE_CUDA_GRAPHS` is 0."""
    return device.type == "cuda" and os.environ.get(CUDA_GRAPHS) != "0"


class DecodeGraph:
    """Decodes one token in each slot of `cache`; captured anew when the cache has grown."""

    def __init__(self, model: Any, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_capacity = 0
        self._tokens = torch.zeros(cache.num_slots, 1, dtype=torch.long, device=model.device)
        self._positions = torch.zeros_like(self._tokens)
        self._slots = torch.arange(cache.num_slots, device=model.device)
        self._logits = torch.empty(0, device=model.device)

    def run(self, token_ids: list[int], positions: list[int]) -> torch.Tensor:
        """Logits [slots, vocabulary]; the next run overwrites them.

        Each slot's token is stored at its position, so a slot that has none to decode must name a position that its
        next tokens will overwrite.
        """
        self._tokens.copy_(torch.tensor(token_ids).unsqueeze(1), non_blocking=True)
        self._positions.copy_(torch.tensor(positions).unsqueeze(1), non_blocking=True)
        if self._graph is None or self._captured_capacity != self._cache.capacity:
            self._graph = self._capture()
        self._graph.replay()
        return self._logits

    def _capture(self) -> torch.cuda.CUDAGraph:
        self._graph = None  # frees the memory of the one before
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_NUM_WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._forward()
        self._captured_capacity = self._cache.capacity
        return graph

    def _forward(self) -> torch.Tensor:
        self._cache.select(self._slots, self._positions, self._cache.capacity)
        return self._cache.forward(self._model, self._tokens)
