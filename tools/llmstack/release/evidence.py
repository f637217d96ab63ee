"""The records of a release's check runs: one file per kind of run, in the release, bound to its two hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llm_policy.release.release import Release

WARMUP, SMOKE, BENCH_GATE = KINDS = ("warmup", "smoke", "bench_gate")
EVIDENCE_FILES = tuple(f"{kind}.json" for kind in KINDS)
MISSING, PASSED, FAILED, STALE = "missing", "passed", "failed", "of another engine or manifest"
_MAX_BYTES = 64 << 20


class Evidence(NamedTuple):
    """One record: its status for the release that holds it, its scalar values, and the whole record."""

    kind: str
    status: str
    results: dict[str, Any]
    record: dict[str, Any]


def write_evidence(release: Release, kind: str, *, passed: bool, began_s: float, record: Mapping[str, Any]) -> Path:
    """Write the record of one run, replacing the last one atomically; `began_s` is Unix time. Returns its path.

    Raises:
        OSError: the release can't be written.
    """
    engine = release.manifest.engine
    began = datetime.fromtimestamp(began_s, timezone.utc)
    document = {
        "passed": passed,
        "engine_hash": engine.hash,
        "manifest_hash": release.manifest_hash,
        "quantisation": engine.quantisation,
        "began_at": began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "duration_s": round((datetime.now(timezone.utc) - began).total_seconds(), 3),
        **record,
    }
    path = release.directory / f"{kind}.json"
    new_path = path.with_name(path.name + ".new")
    new_path.write_bytes((json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    return new_path.replace(path)


def read_evidence(release: Release, kind: str) -> Evidence:
    """The record of one kind of run; one with other hashes than the release's is STALE."""
    record = _read_record(release.directory / f"{kind}.json")
    if record is None:
        return Evidence(kind, MISSING, {}, {})
    results = {key: value for key, value in record.items() if isinstance(value, str | int | float | bool)}
    hashes = (record.get("engine_hash"), record.get("manifest_hash"))
    if hashes != (release.manifest.engine.hash, release.manifest_hash):
        return Evidence(kind, STALE, results, record)
    return Evidence(kind, PASSED if record.get("passed") is True else FAILED, results, record)


def _read_record(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as opened:
            record = orjson.loads(opened.read(_MAX_BYTES))
    except (OSError, orjson.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None
