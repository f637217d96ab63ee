"""A worker's report on one guide, as it crosses the pipe and enters the cache."""

from __future__ import annotations

from typing import NamedTuple


class GuideReport(NamedTuple):
    """Either an error (`code`, `detail`) or the guide in the engine's form."""

    code: str = ""
    """Error code; empty if the guide compiled."""
    detail: str = ""
    engine_type: str = ""
    engine_text: str = ""
    schema_id: str = ""
    unenforced: list[str] = []  # noqa: RUF012 - never changed
    """Keywords that the grammar does not enforce."""
    compile_ms: float = 0.0
    """Processor time of the compile."""
    backend: str = ""
    """The structured-output backend whose form the engine gets."""
    mask_ms: float = 0.0
    """Processor time of the worst token mask that the probe saw."""
