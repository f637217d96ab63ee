"""What warm-up and smoke have to cover of a release before their records prove anything."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm_policy.release.release import Release
from llmstack.release.evidence import SMOKE, WARMUP

PROMPT_TOKENS = (16, 256, 1_024, 4_096)
MAX_TOKENS = 8  # of each answer of the warm-up


class CoverageItem(NamedTuple):
    """What is warmed up, and the request that does so but for its prompt."""

    what: str
    inputs: dict[str, Any]
    schema_id: str | None


def subjects(release: Release) -> list[CoverageItem]:
    """Every task and every registered schema."""
    manifest = release.manifest
    tasks = [CoverageItem(f"task {name}", {"task": name}, task.schema_id) for name, task in manifest.tasks.items()]
    return tasks + [CoverageItem(f"schema {name}", {"schema_id": name}, name) for name in sorted(manifest.schemas)]


def lengths(release: Release, wanted: tuple[int, ...] = PROMPT_TOKENS) -> list[int]:
    """The prompt lengths that the release admits: those of `wanted`, cut at its limit."""
    thresholds = release.manifest.thresholds
    limit = min(thresholds.max_prompt_tokens, thresholds.max_tokens - MAX_TOKENS)
    return sorted({min(length, limit) for length in wanted})


def not_covered(release: Release, kind: str, record: dict[str, Any]) -> list[str]:
    """What of the release the record of one kind of run lacks."""
    find = {WARMUP: _not_warmed_up, SMOKE: _not_smoked}.get(kind)
    return find(release, record) if find else []


def _not_warmed_up(release: Release, record: dict[str, Any]) -> list[str]:
    """Each task and schema, with the prompt lengths."""
    done = {(row.get("what"), row.get("prompt_tokens")) for row in _rows(record, "rows")}
    lacking = {
        subject.what: [length for length in lengths(release) if (subject.what, length) not in done]
        for subject in subjects(release)
    }
    return [f"{what} at {', '.join(map(str, missed))} prompt tokens" for what, missed in lacking.items() if missed]


def _not_smoked(release: Release, record: dict[str, Any]) -> list[str]:
    """Each task that no slice names."""
    done = {row.get("task") for row in _rows(record, "results")}
    return [f"task {name}" for name in release.manifest.tasks if name not in done]


def _rows(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = record.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
