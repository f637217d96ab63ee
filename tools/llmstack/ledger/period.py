"""The period that a report or an export covers."""

from __future__ import annotations

from typing import NamedTuple


class Period(NamedTuple):
    """Unix times in nanoseconds; `until_ns` is exclusive."""

    from_ns: int = 0
    until_ns: int = (1 << 63) - 1
