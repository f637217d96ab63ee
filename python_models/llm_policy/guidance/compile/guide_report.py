"""What the sandbox found out about one guide."""

from __future__ import annotations

from typing import NamedTuple


class GuideReport(NamedTuple):
    """What became of one guide: a refusal (`code`, `detail`), or what the engine gets instead of the client's text."""

    code: str = ""
    detail: str = ""
    engine_type: str = ""
    engine_text: str = ""
    schema_id: str = ""
    unenforced: list[str] = []  # noqa: RUF012 - never changed
    compile_ms: float = 0.0


class GuidePlan(NamedTuple):
    """What the engine gets for a guide, and by which id it is known."""

    engine_type: str
    engine_text: str
    schema_id: str
