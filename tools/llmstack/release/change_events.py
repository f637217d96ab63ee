"""The events that report the end of a change: promoted, rolled back, or failed."""

from __future__ import annotations

from typing import Any

from llm_policy.ledger.outbox import Event, new_event
from llmstack.release.change import Change, ReleaseRef

PROMOTED, ROLLED_BACK, FAILED = "llm_release_promoted", "llm_rollback_completed", "llm_release_change_failed"


def promotion_event(change: Change, now_ns: int) -> Event:
    """The promotion's target is in service; `override` is null unless gates were overridden."""
    override = {"override": change.reason or None, "overridden": list(change.overridden)}
    return _event(PROMOTED, {**_release_keys(change.source, change.target), **override}, change, now_ns)


def rollback_event(change: Change, now_ns: int) -> Event:
    """The rollback's target is in service again."""
    data = {"root_cause": change.reason, **_release_keys(change.source, change.target), "automatic": False}
    return _event(ROLLED_BACK, data, change, now_ns)


def automatic_rollback_event(change: Change, cause: str, now_ns: int) -> Event:
    """A promotion failed, and the service returned to its source."""
    data = {"root_cause": cause, **_release_keys(change.target, change.source), "automatic": True}
    return _event(ROLLED_BACK, data, change, now_ns)


def failure_event(change: Change, cause: str, now_ns: int) -> Event:
    """A change ended without a healthy release: an operator has to act."""
    data = {"kind": change.kind, "cause": cause, "reason": change.reason}
    return _event(FAILED, {**data, **_release_keys(change.source, change.target)}, change, now_ns)


def _event(event_type: str, data: dict[str, Any], change: Change, now_ns: int) -> Event:
    operator, required, reviewers = change.approval
    approval = {"operator": operator, "required_sign_offs": required, "reviewers": list(reviewers)}
    timing = {"change_id": change.id, "duration_s": round((now_ns - change.requested_ns) / 1e9, 3)}
    return new_event(event_type, {**data, **approval, **timing}, now_ns)


def _release_keys(source: ReleaseRef, target: ReleaseRef) -> dict[str, Any]:
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
