"""What is told of a change that ended: that it is in service, that it was taken back, or that it failed."""

from __future__ import annotations

from typing import Any

from llm_policy.ledger.outbox import Event, new_event
from llmstack.release.journal import Change, ReleaseRef

PROMOTED, ROLLED_BACK, FAILED = "llm_release_promoted", "llm_rollback_completed", "llm_release_change_failed"


def promoted(change: Change, now_ns: int) -> Event:
    """The promotion's target is in service; `override` is null unless evidence was missing."""
    override = {"override": change.reason or None, "overridden": list(change.overridden)}
    return _event(PROMOTED, {**_sides(change.source, change.target), **override}, change, now_ns)


def rolled_back(change: Change, now_ns: int) -> Event:
    """The rollback's target is in service again."""
    data = {"root_cause": change.reason, **_sides(change.source, change.target), "automatic": False}
    return _event(ROLLED_BACK, data, change, now_ns)


def undone(change: Change, cause: str, now_ns: int) -> Event:
    """A promotion that failed was taken back by itself."""
    data = {"root_cause": cause, **_sides(change.target, change.source), "automatic": True}
    return _event(ROLLED_BACK, data, change, now_ns)


def failed(change: Change, cause: str, now_ns: int) -> Event:
    """A change ended without a proven release: somebody has to look."""
    data = {"kind": change.kind, "cause": cause, "reason": change.reason, **_sides(change.source, change.target)}
    return _event(FAILED, data, change, now_ns)


def _event(event_type: str, data: dict[str, Any], change: Change, now_ns: int) -> Event:
    operator, required, reviewers = change.approval
    signed = {"operator": operator, "required_sign_offs": required, "reviewers": list(reviewers)}
    timing = {"change_id": change.id, "duration_s": round((now_ns - change.requested_ns) / 1e9, 3)}
    return new_event(event_type, {**data, **signed, **timing}, now_ns)


def _sides(source: ReleaseRef, target: ReleaseRef) -> dict[str, Any]:
    return {
        "from": source.name,
        "to": target.name,
        "from_engine_hash": source.engine_hash,
        "from_manifest_hash": source.manifest_hash,
        "from_build_hash": source.build_hash,
        "engine_hash": target.engine_hash,
        "manifest_hash": target.manifest_hash,
        "build_hash": target.build_hash,
    }
