"""The decoding step of all slots as CUDA graphs.

A step of a large model launches thousands of kernels of a few microseconds each; launching them one by one from Python
takes longer than running them. A graph needs one launch, but its input and output tensors must keep their addresses. It
therefore always decodes every slot and attends to a fixed number of tokens: there is one graph for 1,024 tokens, one
for 2,048 and so on, and a step uses the smallest that covers its longest sequence. Unused rows are free where reading
the weights from memory is the bottleneck.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from portable_engine.kv_cache import INITIAL_CAPACITY, SlotCache

CUDA_GRAPHS = "LLMSTACK_ENGINE_CUDA_GRAPHS"
_NUM_WARM_UPS = 2


def uses_graphs(device: torch.device) -> bool:
    """Whether steps on `device` run as graphs: on a GPU, unless `$LLMSTACK_ENGINE_CUDA_GRAPHS` is 0."""
    return device.type == "cuda" and os.environ.get(CUDA_GRAPHS) != "0"


class _CapturedGraph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor


class DecodeGraph:
    """Decodes one token in each slot of `cache`. Graphs are captured on first use, and again after the cache grows."""

    def __init__(self, model: Any, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._captured: dict[int, _CapturedGraph] = {}  # by number of attended tokens
        self._num_growths = 0
        self._tokens = torch.zeros(cache.num_slots, 1, dtype=torch.long, device=model.device)
        self._positions = torch.zeros_like(self._tokens)
        self._slots = torch.arange(cache.num_slots, device=model.device)

    def run(self, token_ids: list[int], positions: list[int], num_attended: int) -> torch.Tensor:
        """Decode one token per slot, given by slot; returns logits [slots, vocabulary], which the next run overwrites.

        Each slot's token is stored at its position, so a slot without a token to decode must give a position that its
        next tokens overwrite. The tokens to decode attend to positions below `num_attended`.
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

    def _capture(self, num_attended: int) -> _CapturedGraph:
        warm_up_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up_stream):
            for _ in range(_NUM_WARM_UPS):
                self._forward(num_attended)
        torch.cuda.current_stream().wait_stream(warm_up_stream)
        graph = torch.cuda.CUDAGraph()
        other = next(iter(self._captured.values()), None)  # graphs share memory: only one runs at a time
        with torch.cuda.graph(graph, pool=other.graph.pool() if other else None):
            logits = self._forward(num_attended)
        return _CapturedGraph(graph, logits)

    def _forward(self, num_attended: int) -> torch.Tensor:
        self._cache.select(slice(None), self._slots, self._positions, num_attended)
        return self._cache.forward(self._model, self._tokens)
