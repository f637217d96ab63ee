"""What a guided request costs the requests beside it: the speed of a steady load with and without its guide.

The portable engine decodes the same load twice, a step of one and a step of the other in turn: rows without a guide,
and one row beside them, which is guided in the second load only. The ratio of the times is the guide's cost for
everybody in the batch. It hardly depends on the speed of the machine at that moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol

import torch

from llmstack.bench.steady_load import SteadyLoad
from portable_engine.engine_loop import Grammars

COMPILE_SECONDS = 120.0
NUM_WARM_UP_STEPS = 2
"""The first steps prefill."""
_BIAS, _SPREAD = 100.0, 10.0
"""What a preferred token's logit gets in addition; the spread draws among them."""
_NUM_BIASES = 64
_SEED = 20_11


class GuidedDecoding(Grammars, Protocol):
    """What the bench uses of the engine's `GrammarEngine`."""

    def mask_logits(self, logits: torch.Tensor, matchers: list[Any]) -> None:
        """Exclude, in place, the tokens that each row's matcher does not allow; None is an unguided row."""


@dataclass(frozen=True)
class Style:
    """How the model writes inside the guide: it prefers `tokens` for `max_tokens` tokens."""

    tokens: tuple[str, ...]
    max_tokens: int


STYLES = (
    Style(tuple("abcdefghijklmnopqrstuvwxyz "), 64),
    Style(('"', '",', '":', ",", ":", "}", "]", "0", "1", " "), 32),
    Style((), 32),
)
"""Letters keep strings open, as long texts do; punctuation reaches late fields; the last one is the model's own."""


@dataclass(frozen=True)
class BesideMeasurement:
    """Speed of the steady rows in tokens per second. `lost_place` says why the engine ended the guided row, if so."""

    without_tokens_per_s: float
    with_tokens_per_s: float
    lost_place: str = ""

    @property
    def ratio(self) -> float:
        """What remains of the speed beside the guide."""
        return self.with_tokens_per_s / self.without_tokens_per_s


class BesideBench:
    """Measures guides beside the load of one model."""

    def __init__(
        self, model: Any, grammars: GuidedDecoding, token_ids: Mapping[str, int], num_rows: int, num_steps: int
    ) -> None:
        """`token_ids` are the ids of tokens by their text; `num_rows` and `num_steps` are the steady load's."""
        self._model = model
        self._grammars = grammars
        self._preferred = [[token_ids[text] for text in style.tokens if text in token_ids] for style in STYLES]
        self._num_rows = num_rows
        self._num_steps = num_steps
        # On a CPU the thread's own time: other processes must not change a ratio.
        self._clock = time.thread_time if model.device.type == "cpu" else time.perf_counter

    def measure(self, engine_type: str, engine_text: str) -> BesideMeasurement:
        """Decode the load with and without the guide.

        Raises:
            GuideError: the engine does not compile the guide.
        """
        guide = self._grammars.compile(engine_type, engine_text).result(COMPILE_SECONDS)
        mask = _StyledMask(self._grammars, self._model.device)
        num_all = NUM_WARM_UP_STEPS + self._num_steps
        without = SteadyLoad(self._model, _mask_nothing, self._num_rows, num_all)
        guided = SteadyLoad(self._model, mask, self._num_rows, num_all)
        without_s = guided_s = 0.0
        num_added = 0
        for step in range(num_all):
            max_tokens = 0
            if without.row_beside is None and guided.row_beside is None and not guided.failure:
                style = num_added % len(STYLES)
                num_added += 1
                max_tokens = STYLES[style].max_tokens
                mask.prefer(self._preferred[style])
            times = self._step(without, None, max_tokens), self._step(guided, guide, max_tokens)
            if step >= NUM_WARM_UP_STEPS:
                without_s += times[0]
                guided_s += times[1]
            if guided.row_beside is None:  # so that both loads prefill the same rows in the same steps
                without.end_beside()
        num_tokens = self._num_rows * self._num_steps
        return BesideMeasurement(num_tokens / without_s, num_tokens / guided_s, guided.failure)

    def _step(self, load: SteadyLoad, guide: Any, max_tokens: int) -> float:
        """Seconds of one step, with a new row beside the steady ones if `max_tokens` is not 0."""
        began = self._clock()
        if max_tokens:
            load.add_beside(None if guide is None else self._grammars.matcher(guide, -1), max_tokens)
        load.step()
        return self._clock() - began


class _StyledMask:
    """Masks logits by the guides, and then prefers some tokens in the guided rows."""

    def __init__(self, grammars: GuidedDecoding, device: torch.device) -> None:
        self._grammars = grammars
        self._device = device
        self._preferred: torch.Tensor | None = None
        self._biases: Iterator[torch.Tensor] = iter(())

    def prefer(self, token_ids: list[int]) -> None:
        """Prefer these tokens from now on. The biases are drawn here, because this is not a step's time."""
        generator = torch.Generator().manual_seed(_SEED)
        drawn = _BIAS + _SPREAD * torch.rand(_NUM_BIASES, len(token_ids), generator=generator)
        self._preferred = torch.tensor(token_ids, device=self._device) if token_ids else None
        self._biases = cycle(drawn.to(self._device))

    def __call__(self, logits: torch.Tensor, matchers: list[Any]) -> None:
        self._grammars.mask_logits(logits, matchers)
        for row, matcher in enumerate(matchers):
            if matcher is not None and self._preferred is not None:
                logits[row].index_add_(0, self._preferred, next(self._biases))


def _mask_nothing(logits: torch.Tensor, matchers: list[Any]) -> None:
    """No row is guided."""
