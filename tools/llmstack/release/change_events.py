"""What is told of a change that ended: `llm_release_promoted` and `llm_rollback_completed`."""

from __future__ import annotations

from typing import Any

from llm_policy.outbox import Event, new_event
from llmstack.release.journal import Change, Side

PROMOTED, ROLLED_BACK = "llm_release_promoted", "llm_rollback_completed"


def promoted(change: Change, now_ns: int) -> Event:
    """The promotion's target is in service; `override` is null unless evidence was missing."""
    override = {"override": change.reason or None, "overridden": list(change.overridden)}
    return new_event(PROMOTED, {**_sides(change.source, change.target), **override, **_timing(change, now_ns)}, now_ns)


def rolled_back(change: Change, now_ns: int) -> Event:
    """The rollback's target is in service again."""
    data = {"root_cause": change.reason, **_sides(change.source, change.target), "automatic": False}
    return new_event(ROLLED_BACK, {**data, **_timing(change, now_ns)}, now_ns)


def undone(change: Change, cause: str, now_ns: int) -> Event:
    """A promotion that failed was taken back by itself."""
    data = {"root_cause": cause, **_sides(change.target, change.source), "automatic": True}
    return new_event(ROLLED_BACK, {**data, **_timing(change, now_ns)}, now_ns)


def _sides(source: Side, target: Side) -> dict[str, Any]:
    return {
        "from": source.name,
        "to": target.name,
        "from_engine_hash": source.engine_hash,
        "from_manifest_hash": source.manifest_hash,
        "engine_hash": target.engine_hash,
        "manifest_hash": target.manifest_hash,
    }


def _timing(change: Change, now_ns: int) -> dict[str, Any]:
    return {"change_id": change.id, "duration_s": round((now_ns - change.requested_ns) / 1e9, 3)}
