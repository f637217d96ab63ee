"""A request's sampling parameters: the task's defaults, overridden by the client within fixed ranges."""

from __future__ import annotations

import struct
from typing import NamedTuple

from llm_policy.errors import invalid_input
from llm_policy.release.manifest import Task

# Logits divided by a lower temperature overflow. Exactly 0 means greedy.
MIN_TEMPERATURE = 0.01


class Range(NamedTuple):
    """The closed range of one numeric input."""

    low: float
    high: float

    def check(self, name: str, value: float) -> float:
        """Return `value` if it is in the range (NaN never is), else raise `invalid_input`.

        A bound that was rounded to FP32 on its way is in the range, too.
        """
        if self.low <= value <= self.high or value in (_as_fp32(self.low), _as_fp32(self.high)):
            return value
        raise invalid_input(f"{name} is {_text(value)}, allowed {_text(self.low)} to {_text(self.high)}")


def _as_fp32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _text(value: float) -> str:
    """Whole numbers in full; others in six digits, because FP32 inputs have no more."""
    return str(value) if isinstance(value, int) else f"{value:g}"


RANGES = {
    "temperature": Range(0.0, 2.0),
    "top_p": Range(1e-6, 1.0),
    "top_k": Range(0, 1024),  # TensorRT-LLM's sampling kernels stop at 1024
    "repetition_penalty": Range(0.01, 10.0),
    "presence_penalty": Range(-2.0, 2.0),
    "frequency_penalty": Range(-2.0, 2.0),
    "min_tokens": Range(0, 1_000_000),
}


class Sampling(NamedTuple):
    """The parameters passed to the engine. None keeps the engine's default (for a penalty: no penalty)."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    min_tokens: int | None = None
    seed: int | None = None


def choose_sampling(task: Task | None, overrides: dict[str, float]) -> Sampling:
    """The sampling of one request: `overrides` (by input name) take precedence over `task`; greedy without either.

    Temperature 0 becomes top_k 1, which every engine reads as greedy. Otherwise top_p is always explicit, because
    TensorRT-LLM treats an absent top_k and top_p as greedy whatever the temperature.

    Raises:
        InvalidRequest: `invalid_input` with the allowed range and the given value.
    """
    for name, value in overrides.items():
        if name in RANGES:
            RANGES[name].check(name, value)
    temperature = overrides.get("temperature", task.temperature if task else 0.0)
    if temperature == 0.0:
        return Sampling(1.0, 1, 1.0, *_penalties_and_seed(overrides))
    if temperature < _as_fp32(MIN_TEMPERATURE):
        raise invalid_input(f"temperature is {temperature:g}, allowed 0 or {MIN_TEMPERATURE:g} to 2")
    top_p = overrides.get("top_p", (task.top_p if task else None) or 1.0)
    return Sampling(temperature, int(overrides.get("top_k", 0)), top_p, *_penalties_and_seed(overrides))


def _penalties_and_seed(
    overrides: dict[str, float],
) -> tuple[float | None, float | None, float | None, int | None, int | None]:
    """Penalties, min_tokens and seed, in the order of `Sampling`."""
    penalties = (overrides.get(f"{kind}_penalty") for kind in ("repetition", "presence", "frequency"))
    whole = (int(overrides[name]) if name in overrides else None for name in ("min_tokens", "seed"))
    return (*penalties, *whole)  # type: ignore[return-value]  # mypy can't count a generator's items
