"""`llmstack release status` and `history`: the release in service, and the changes that led to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmstack.cli.release.errors import exit_on_change_errors
from llmstack.cli.release.gate_report import check_gates_with_progress, find_release, gate_sources, print_gates
from llmstack.cli.release.options import (
    Against,
    ArtifactsDir,
    AsJson,
    BoardTokenFile,
    BoardUrl,
    NumSignOffs,
    StateDir,
)
from llmstack.cli.terminal import EXIT_FAILED, print_json
from llmstack.paths import DEFAULT_ARTIFACTS_DIR, DEFAULT_STATE_DIR
from llmstack.release.defaults import NUM_SIGN_OFFS

if TYPE_CHECKING:
    from llmstack.release.promotion_gates import GateResult


def status(
    name: Annotated[
        str | None, typer.Argument(help="The release whose promotion gates are checked.", show_default=False)
    ] = None,
    against: Against = None,
    board_url: BoardUrl = None,
    board_token_file: BoardTokenFile = None,
    required_sign_offs: NumSignOffs = NUM_SIGN_OFFS,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Show the release in service, the rollback's target and the change in progress; with NAME, what it lacks.

    docs/releases.md explains each gate, and where the evaluation side's manifest comes from.

    Exits with 0 when the release lacks nothing and no change is in progress, else with 1.

    Example: llmstack release status qwen3-32b-r7
    """
    from llmstack.release.change import ReleaseRef, change_document, utc
    from llmstack.release.change_request import previous_release
    from llmstack.release.journal import ReleaseJournal
    from llmstack.release.last_rollback import last_rollback
    from llmstack.release.store import ReleaseStore

    store, journal = ReleaseStore(artifacts), ReleaseJournal(state_dir)
    current = store.in_service()
    with exit_on_change_errors():
        change, changes = journal.open_change(), journal.changes()
        previous = previous_release(changes, store.link, str(current or ""))
    document: dict[str, Any] = {
        "in_service": current.name if current else None,
        "rollback_leads_to": previous.name if previous else None,
        "under_way": change_document(change) if change else None,
    }
    results: list[GateResult] = []
    if name is not None:
        sources = gate_sources(against, board_url, board_token_file, required_sign_offs, state_dir)
        release = find_release(store, name)
        results = check_gates_with_progress(release, sources)
        rollback = last_rollback(changes, ReleaseRef.of(release))
        document["rolled_back"] = None if rollback is None else {"at": utc(rollback.time_ns), "cause": rollback.cause}
        document["gates"] = {result.gate: list(result.missing) for result in results}
    if as_json:
        print_json(document)
    else:
        _print_status(document, results)
    if change or any(result.missing for result in results):
        raise typer.Exit(EXIT_FAILED)


def history(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """List every promotion and rollback with its cause and outcome, the newest first.

    Example: llmstack release history --json
    """
    from llmstack.release.change import change_document, utc
    from llmstack.release.journal import ReleaseJournal

    with exit_on_change_errors():
        changes = ReleaseJournal(state_dir).changes()[::-1]
    if as_json:
        print_json([change_document(change) for change in changes])
        return
    table = Table("when", "change", "from", "to", "outcome", "seconds", "reason", title_justify="left")
    for change in changes:
        reason = "; ".join(text for text in (change.reason, change.detail) if text)
        seconds = "" if change.duration_s is None else f"{change.duration_s:.1f}"
        outcome = f"at {change.step}" if change.is_open else change.outcome
        table.add_row(
            utc(change.requested_ns), change.kind, change.source.name, change.target.name, outcome, seconds, reason
        )
    Console().print(table)


def _print_status(document: dict[str, Any], results: Sequence[GateResult]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"in service        {document['in_service'] or 'nothing'}", markup=False)
    target = document["rollback_leads_to"]
    direction = f"{target} (rollback: {document['in_service']} → {target})" if target else "nothing"
    console.print(f"rollback target   {direction}", markup=False)
    if change := document["under_way"]:
        text = f"{change['kind']} of {change['to']}: {change['step'].replace('_', ' ')}"
        console.print(f"in progress       {text}", style="yellow", markup=False)
    if rolled_back := document.get("rolled_back"):
        text = f"{rolled_back['at']}: {rolled_back['cause']}; sign-offs from before then do not count"
        console.print(f"rolled back       {text}", style="yellow", markup=False)
    print_gates(console, results)
