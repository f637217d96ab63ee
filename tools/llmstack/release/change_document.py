"""A change as JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from llmstack.release.journal import Change


def change_document(change: Change) -> dict[str, Any]:
    """All that is known of a change, for programs."""
    return {
        "id": change.id,
        "kind": change.kind,
        "from": change.source.name,
        "to": change.target.name,
        "from_engine_hash": change.source.engine_hash,
        "from_manifest_hash": change.source.manifest_hash,
        "from_build_hash": change.source.build_hash,
        "engine_hash": change.target.engine_hash,
        "manifest_hash": change.target.manifest_hash,
        "build_hash": change.target.build_hash,
        "outcome": change.outcome,
        "step": change.step,
        "reason": change.reason,
        "overridden": list(change.overridden),
        "operator": change.approval.operator,
        "required_sign_offs": change.approval.required_sign_offs,
        "reviewers": list(change.approval.reviewers),
        "detail": change.detail,
        "requested_at": utc(change.requested_ns),
        "duration_s": change.duration_s,
    }


def utc(time_ns: int) -> str:
    """Unix time in nanoseconds as ISO 8601, to the second."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, timezone.utc).isoformat().replace("+00:00", "Z")
