"""Requests a change: which release a rollback leads to, whether it is intact, and which open change it supersedes."""

from __future__ import annotations

import os
import pwd
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from llm_policy.release.release import Release, ReleaseError
from llmstack.release.build_manifest import check_published
from llmstack.release.change import (
    COMPLETED,
    FAILED,
    OPEN,
    PROMOTION,
    RECOVERING,
    ROLLBACK,
    UNDOING,
    UNDONE,
    Change,
    ChangeRequest,
    ChangeResult,
    ReleaseRef,
)
from llmstack.release.change_events import failure_event
from llmstack.release.journal import ReleaseJournal
from llmstack.release.store import ReleaseStore


def request_change(journal: ReleaseJournal, request: ChangeRequest) -> Change:
    """Open the change, and end the open one that it supersedes.

    Raises:
        ChangeInProgress: a change is open that this one can't supersede.
        sqlite3.Error: the journal can't be read or written.
    """
    now_ns = time.time_ns()
    open_change = journal.open_change()
    superseded = superseded_by(request.kind, request.reason, open_change, now_ns) if open_change else None
    return journal.request(request, now_ns, superseded=superseded)


def superseded_by(kind: str, reason: str, open_change: Change, now_ns: int) -> ChangeResult | None:
    """How `open_change` ends when a change of this kind is requested; None when the request has to wait.

    Any change may supersede one at the step RECOVERING: that one may never end by itself.
    """
    if open_change.step == RECOVERING:
        cause = f"{open_change.detail}; given up for a {kind}"
        return ChangeResult(open_change, FAILED, cause, failure_event(open_change, cause, now_ns))
    if kind == ROLLBACK and _is_promoting(open_change):
        return ChangeResult(open_change, UNDONE, f"taken back by a rollback: {reason}")
    return None


def _is_promoting(change: Change) -> bool:
    """Whether the change is a promotion still on its way to its target."""
    return change.kind == PROMOTION and change.step not in (UNDOING, RECOVERING)


def rollback_releases(journal: ReleaseJournal, store: ReleaseStore) -> tuple[ReleaseRef, ReleaseRef | None]:
    """The releases that a rollback requested now leads from and to; None when there is none to return to.

    Raises:
        sqlite3.Error: the journal can't be read.
    """
    open_change = journal.open_change()
    if open_change is not None and _is_promoting(open_change):
        return open_change.target, open_change.source if open_change.source.directory else None
    source = release_in_service(store)
    return source, previous_release(journal.changes(), store.link, source.directory)


def release_in_service(store: ReleaseStore) -> ReleaseRef:
    """The release that the store's link leads to; without hashes when it can't be opened."""
    current = store.in_service()
    try:
        return ReleaseRef.of(Release.open(current)) if current else ReleaseRef()
    except (ReleaseError, OSError):  # a broken release must not block the change that replaces it
        return ReleaseRef(str(current))


def previous_release(changes: Sequence[Change], link: Path, current: str) -> ReleaseRef | None:
    """The release that a rollback from the directory `current` leads to, or None; `changes` has the oldest first.

    Releases form a stack: a completed promotion pushes its target, a rollback pops down to its own.
    """
    stack: list[ReleaseRef] = []
    for change in changes:
        if change.link != str(link):
            continue
        if change.kind == PROMOTION and change.outcome == COMPLETED:
            if change.source.directory and (not stack or stack[-1].directory != change.source.directory):
                stack.append(change.source)
            stack.append(change.target)
        elif change.kind == ROLLBACK and change.outcome in (COMPLETED, FAILED, OPEN):
            stack = _popped_to(stack, change.target.directory)
    while stack and stack[-1].directory == current:
        stack.pop()
    return stack[-1] if stack else None


def _popped_to(stack: list[ReleaseRef], directory: str) -> list[ReleaseRef]:
    """`stack` up to the release in `directory`; the whole stack when it holds no such release."""
    positions = [position for position, release in enumerate(stack) if release.directory == directory]
    return stack[: positions[-1] + 1] if positions else stack


def check_rollback_target(target: ReleaseRef) -> str:
    """Why the release no longer is what was in service; empty when every file is unchanged."""
    try:
        release = Release.open(target.directory).verify_files()
        if ReleaseRef.of(release) != target:
            return f"the manifests of {target.name} are not those that were in service"
    except (ReleaseError, OSError) as error:
        return f"{target.name} has changed: {error}"
    differences = check_published(release.directory)
    return f"{target.name} has changed: {'; '.join(differences)}" if differences else ""


def current_user() -> str:
    """`user@host`, from the process's real user id: environment variables can be set to anything."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
