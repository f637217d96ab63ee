"""The decoding step of all slots as CUDA graphs.

A step of a large model is thousands of kernels that take microseconds each; launched one by one from Python they cost
more than the work. A graph is launched once. What it reads and writes must stay where it is, so it always decodes every
slot, and attends over a fixed number of tokens: there is a graph for 1,024 of them, for 2,048 and so on, and a step
takes the smallest that covers its longest sequence. Rows nobody needs cost nothing where the weights' way through
memory is the bound.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from portable_engine.kv_cache import INITIAL_CAPACITY, SlotCache

CUDA_GRAPHS = "LLMSTACK_ENGINE_CUDA_GRAPHS"
_NUM_WARM_UPS = 2


def uses_graphs(device: torch.device) -> bool:
    """Whether steps on `device` are captured: on a GPU, unless `$LLMSTACK_ENGINE_CUDA_GRAPHS` is 0."""
    return device.type == "cuda" and os.environ.get(CUDA_GRAPHS) != "0"


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor


class DecodeGraph:
    """Decodes one token in each slot of `cache`; captured when first needed, and anew once the cache has grown."""

    def __init__(self, model: Any, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._captured: dict[int, _Captured] = {}  # by the number of tokens attended to
        self._num_growths = 0
        self._tokens = torch.zeros(cache.num_slots, 1, dtype=torch.long, device=model.device)
        self._positions = torch.zeros_like(self._tokens)
        self._slots = torch.arange(cache.num_slots, device=model.device)

    def run(self, token_ids: list[int], positions: list[int], num_attended: int) -> torch.Tensor:
        """Logits [slots, vocabulary]; the next run overwrites them.

        Each slot's token is stored at its position, so a slot that has none to decode must name a position that its
        next tokens will overwrite. The others look at no token from `num_attended` on.
        """
        self._tokens.copy_(torch.tensor(token_ids).unsqueeze(1), non_blocking=True)
        self._positions.copy_(torch.tensor(positions).unsqueeze(1), non_blocking=True)
        if self._num_growths != self._cache.num_growths:
            self._captured.clear()
            self._num_growths = self._cache.num_growths
        size = INITIAL_CAPACITY
        while size < num_attended:
            size *= 2
        if size not in self._captured:
            self._captured[size] = self._capture(size)
        self._captured[size].graph.replay()
        return self._captured[size].logits

    def _capture(self, num_attended: int) -> _Captured:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_NUM_WARM_UPS):
                self._forward(num_attended)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        shared = next(iter(self._captured.values()), None)  # only one of them runs at a time
        with torch.cuda.graph(graph, pool=shared.graph.pool() if shared else None):
            logits = self._forward(num_attended)
        return _Captured(graph, logits)

    def _forward(self, num_attended: int) -> torch.Tensor:
        self._cache.select(slice(None), self._slots, self._positions, num_attended)
        return self._cache.forward(self._model, self._tokens)
