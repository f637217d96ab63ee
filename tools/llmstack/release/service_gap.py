"""What a change of the release in service means for clients, in lines that are printed before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmstack.release.change import COMPLETED, Change, ChangeRequest

# Measured with the embedded release on two busy cores: see docs/releases.md.
USUAL_GAP_S = 20


def describe_gap(request: ChangeRequest, changes: Sequence[Change], *, is_served: bool) -> list[str]:
    """The direction of the change, how long there is no service, and what clients see.

    `changes` are those of the journal; `is_served`: a service runs on the state directory.
    """
    source, target = request.source.name or "nothing", request.target.name
    lines = [f"{request.kind}: {source} → {target}"]
    if not is_served:
        return [*lines, "  no llmstack serve runs on this state directory, so no client is affected"]
    lines += [
        f"  no service for about {_gap_text(changes, request.link, target)}",
        "  clients get draining (503; 400 through /generate), then no connection; /readyz answers 503",
        "  requests in flight are answered first, for as long as --exit-timeout-secs of serve allows",
    ]
    if request.source.engine_hash and request.source.engine_hash != request.target.engine_hash:
        lines.append(f"  afterwards requests that name the engine hash of {source} get engine_hash_mismatch")
    return lines


def _gap_text(changes: Sequence[Change], link: Path, target: str) -> str:
    durations = [
        change.duration_s
        for change in changes
        if change.outcome == COMPLETED and change.link == str(link) and change.duration_s
    ]
    if durations:
        return f"{max(1, round(durations[-1]))} s, as at the last change, if {target} loads as fast"
    return f"{USUAL_GAP_S} s and as long as {target} takes to load"
