"""Reasons why a request fails in the engine, with the policy's error codes."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """An error code and its detail. The codes are the policy's, because clients match on those."""

    code: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


NO_ALLOWED_TOKEN = Failure("invalid_input", "the guide, bad_words and min_tokens together allow no further token")
OUT_OF_MEMORY = Failure("overloaded", "not enough memory for a request of this many tokens")
STEP_FAILED = Failure("internal", "the engine failed during decoding")
STOPPING = Failure("draining", "the engine is stopping")


def masks_too_slow(mean_ms: float, limit_ms: float) -> Failure:
    """The failure of a guide whose token masks hold up the sequences beside it."""
    return Failure(
        "schema_too_complex", f"processor time of the guide's token masks in ms is {mean_ms:.1f}, limit {limit_ms:g}"
    )
