"""What a release's warm-up and smoke run have to cover before their records count."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llmstack.release.defaults import PROMPT_TOKENS as PROMPT_TOKENS
from llmstack.release.evidence import SMOKE, WARMUP

MAX_TOKENS = 8  # completion tokens of each warm-up request


class CoverageItem(NamedTuple):
    """A task or schema to warm up; `inputs` is its request without the prompt."""

    what: str
    inputs: dict[str, Any]
    schema_id: str | None


def coverage_items(release: Release) -> list[CoverageItem]:
    """Every task and every registered schema."""
    manifest = release.manifest
    tasks = [CoverageItem(f"task {name}", {"task": name}, task.schema_id) for name, task in manifest.tasks.items()]
    return tasks + [CoverageItem(f"schema {name}", {"schema_id": name}, name) for name in sorted(manifest.schemas)]


def prompt_lengths(release: Release, wanted: tuple[int, ...] = PROMPT_TOKENS) -> list[int]:
    """The `wanted` prompt lengths in tokens, capped at the longest prompt that the release admits."""
    thresholds = release.manifest.thresholds
    limit = min(thresholds.max_prompt_tokens, thresholds.max_tokens - MAX_TOKENS)
    return sorted({min(length, limit) for length in wanted})


def find_uncovered(release: Release, kind: str, record: dict[str, Any]) -> list[str]:
    """The parts of the release that the record of one kind of run does not cover."""
    find = {WARMUP: _not_warmed_up, SMOKE: _tasks_without_slice}.get(kind)
    return find(release, record) if find else []


def _not_warmed_up(release: Release, record: dict[str, Any]) -> list[str]:
    """Each task and schema with its missing prompt lengths."""
    covered = {(row.get("what"), row.get("prompt_tokens")) for row in _rows(record, "rows")}
    uncovered = {
        item.what: [length for length in prompt_lengths(release) if (item.what, length) not in covered]
        for item in coverage_items(release)
    }
    return [f"{what} at {', '.join(map(str, missed))} prompt tokens" for what, missed in uncovered.items() if missed]


def _tasks_without_slice(release: Release, record: dict[str, Any]) -> list[str]:
    """Only the guide's tasks need a slice; a slice of a release's own task is run where there is one."""
    covered = {row.get("task") for row in _rows(record, "results")}
    return [f"task {name}" for name in TASKS if name not in covered]


def _rows(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = record.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
