"""Observations of a histogram that are written together: one write for each bucket instead of two for each value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Histogram


class PendingObservations:
    """Counts values by bucket until `write`. Only one thread may use it.

    `upper_bounds` are those of the histogram, ascending, without the infinite one.
    """

    def __init__(self, upper_bounds: Sequence[float]) -> None:
        self._upper_bounds = upper_bounds
        self._counts, self._sum = [0] * (len(upper_bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Observe `value`."""
        self._counts[bisect_left(self._upper_bounds, value)] += 1
        self._sum += value

    def write(self, histogram: Histogram) -> None:
        """Write what was added since the last call. The histogram has these bounds and no labels."""
        counts, total = self._counts, self._sum
        self._counts, self._sum = [0] * len(counts), 0.0
        if any(counts):
            # prometheus_client has no call for several observations at once; its own `observe` does the same.
            histogram._sum.inc(total)
            for bucket, count in zip(histogram._buckets, counts, strict=True):
                if count:
                    bucket.inc(count)
