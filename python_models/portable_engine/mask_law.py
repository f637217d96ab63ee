"""The law of the mask: token masks of one guide must not hold up the sequences beside it."""

from __future__ import annotations

from collections.abc import Collection

NUM_FILLS = 16
"""Fills of one guide that are judged together: its last ones, over all its sequences."""
DEFAULT_LIMIT_MS = 5.0


def too_slow_ms(fills_ms: Collection[float], limit_ms: float) -> float | None:
    """Mean of a guide's last fills without the longest, in ms of processor time, if it breaks the law; else None.

    `fills_ms` are up to `NUM_FILLS` fills. Those that are missing count as 0, so that a guide whose masks are slightly
    too slow is judged after `NUM_FILLS` of them, and one whose masks are 100 ms after two. The longest does not count:
    a busy machine can make one fill of any guide slow.
    """
    num_others = len(fills_ms) - 1
    if num_others < 1:
        return None
    others_ms = sum(sorted(fills_ms)[:-1])
    return others_ms / num_others if others_ms > limit_ms * (NUM_FILLS - 1) else None
