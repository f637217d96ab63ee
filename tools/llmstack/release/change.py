"""A change of the release in service, a promotion or a rollback: its steps, outcomes, approval and releases."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.ledger import outbox
from llm_policy.release.digest import file_digest
from llm_policy.release.release import Release
from llmstack.release.build_manifest import FILE_NAME as BUILD_MANIFEST
from llmstack.supervision.startup import PHASES

PROMOTION, ROLLBACK = "promotion", "rollback"

REQUESTED, READINESS_OFF, DRAIN, STOP, SWITCH = PREPARATION_STEPS = (
    "requested",
    "readiness_off",
    "drain",
    "stop",
    "switch",
)
# UNDOING: a failed promotion returns to its source. RECOVERING: the release to fall back on does not start either, and
# the service keeps trying it.
UNDOING, RECOVERING = "undoing", "recovering"
STEPS = (*PREPARATION_STEPS, *PHASES, UNDOING, RECOVERING)

OPEN, COMPLETED, UNDONE, REFUSED, FAILED = ("open", "completed", "undone", "refused", "failed")


class ReleaseRef(NamedTuple):
    """A release as a change names it; every field is empty when there was none."""

    directory: str = ""
    engine_hash: str = ""
    manifest_hash: str = ""
    build_hash: str = ""  # SHA-256 of build_manifest.json; empty without one

    @classmethod
    def of(cls, release: Release) -> ReleaseRef:
        """The release's directory and hashes.

        Raises:
            OSError: its build manifest can't be read.
        """
        build_manifest = release.directory / BUILD_MANIFEST
        build_hash = "sha256:" + file_digest(build_manifest) if build_manifest.exists() else ""
        return cls(str(release.directory), release.manifest.engine.hash, release.manifest_hash, build_hash)

    @property
    def name(self) -> str:
        """The release's name."""
        return Path(self.directory).name

    @property
    def path(self) -> Path | None:
        """The release's directory; None when there was no release."""
        return Path(self.directory) if self.directory else None


class Approval(NamedTuple):
    """Who requested a change (`user@host`), and who had signed it off."""

    operator: str = ""
    required_sign_offs: int | None = None  # None: a rollback needs none
    reviewers: tuple[str, ...] = ()


NO_APPROVAL = Approval()


class ChangeRequest(NamedTuple):
    """A change to be entered into the journal."""

    kind: str
    link: Path
    source: ReleaseRef
    target: ReleaseRef
    reason: str = ""
    overridden: tuple[str, ...] = ()  # what the release lacked, when a promotion overrides its gates
    approval: Approval = NO_APPROVAL
    start_timeout_s: float | None = None  # None: the service's own


class Change(NamedTuple):
    """One row of the journal; times are Unix time in nanoseconds."""

    id: int
    kind: str
    link: str
    source: ReleaseRef
    target: ReleaseRef
    reason: str
    overridden: tuple[str, ...]
    approval: Approval
    start_timeout_s: float | None
    step: str
    requested_ns: int
    step_ns: int
    outcome: str
    detail: str
    ended_ns: int | None

    @property
    def is_open(self) -> bool:
        """Whether the change is still in progress."""
        return self.outcome == OPEN

    @property
    def duration_s(self) -> float | None:
        """Seconds from the request to the end; None while the change is open."""
        return None if self.ended_ns is None else round((self.ended_ns - self.requested_ns) / 1e9, 3)


class ChangeResult(NamedTuple):
    """How a change ends; `event` goes to the readiness webhook, queued in the transaction that closes the change."""

    change: Change
    outcome: str
    detail: str = ""
    event: outbox.Event | None = None


def change_document(change: Change) -> dict[str, Any]:
    """The change as the commands' JSON output."""
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
