"""The policy's own metrics on Triton's metrics port."""

from __future__ import annotations

import triton_python_backend_utils as pb_utils


class AnswerMetrics:
    """Counts of what postprocess found. An increment is a round trip to the server: only what is rare is counted."""

    def __init__(self) -> None:
        # The family must outlive its metrics.
        self._family = pb_utils.MetricFamily(
            name="llm_schema_violations_total",
            description="Guided answers that were complete and not what their schema allows",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._schema_violations = self._family.Metric(labels={})

    def count_flags(self, flags: list[str]) -> None:
        """Count one answer's flags."""
        if "schema_violation" in flags:
            self._schema_violations.increment(1)
