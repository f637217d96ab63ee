"""`llmstack release status` and `history`: what is in service, and what was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmstack.cli.release.faults import operator_faults
from llmstack.cli.release.gate_report import check_visibly, evidence_of, find_release, print_findings
from llmstack.cli.release.options import (
    DEFAULT_ARTIFACTS_DIR,
    NUM_SIGN_OFFS,
    Against,
    ArtifactsDir,
    AsJson,
    BoardTokenFile,
    BoardUrl,
    NumSignOffs,
    StateDir,
)
from llmstack.cli.terminal import DIFFERENT, print_json
from llmstack.paths import DEFAULT_STATE_DIR
from llmstack.release import journal
from llmstack.release.change_document import change_document, utc
from llmstack.release.journal import previous_release
from llmstack.release.promotion_gates import GateResult
from llmstack.release.store import ReleaseStore


def status(
    name: Annotated[str | None, typer.Argument(help="What this release still lacks.", show_default=False)] = None,
    against: Against = None,
    board_url: BoardUrl = None,
    board_token_file: BoardTokenFile = None,
    required_sign_offs: NumSignOffs = NUM_SIGN_OFFS,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """What is in service, what a rollback would lead to, what is under way; with a NAME, what that release lacks.

    Exits with 0 when nothing is lacking or under way, else with 1.

    Example: llmstack release status qwen3-32b-r7
    """
    store, changes = ReleaseStore(artifacts), journal.ReleaseJournal(state_dir)
    current = store.in_service()
    with operator_faults():
        change = changes.open_change()
        back = previous_release(changes.changes(), store.link, str(current or ""))
    document: dict[str, Any] = {
        "in_service": current.name if current else None,
        "rollback_leads_to": back.name if back else None,
        "under_way": change_document(change) if change else None,
    }
    findings: list[GateResult] = []
    if name is not None:
        evidence = evidence_of(against, board_url, board_token_file, required_sign_offs, state_dir)
        findings = check_visibly(find_release(store, name), evidence)
        document["gates"] = {finding.gate: list(finding.missing) for finding in findings}
    if as_json:
        print_json(document)
    else:
        _print_status(document, findings)
    if change or any(finding.missing for finding in findings):
        raise typer.Exit(DIFFERENT)


def history(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """Every promotion and rollback with its cause and outcome, the newest first.

    Example: llmstack release history --json
    """
    with operator_faults():
        changes = journal.ReleaseJournal(state_dir).changes()[::-1]
    if as_json:
        print_json([change_document(change) for change in changes])
        return
    table = Table("when", "what", "from", "to", "outcome", "seconds", "why", title_justify="left")
    for change in changes:
        why = "; ".join(text for text in (change.reason, change.detail) if text)
        seconds = "" if change.duration_s is None else f"{change.duration_s:.1f}"
        outcome = f"at {change.step}" if change.is_open else change.outcome
        table.add_row(
            utc(change.requested_ns), change.kind, change.source.name, change.target.name, outcome, seconds, why
        )
    Console().print(table)


def _print_status(document: dict[str, Any], findings: Sequence[GateResult]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"in service         {document['in_service'] or 'nothing'}", markup=False)
    console.print(f"rollback leads to  {document['rollback_leads_to'] or 'nothing'}", markup=False)
    if change := document["under_way"]:
        text = f"{change['kind']} of {change['to']} at {change['step']}"
        console.print(f"under way          {text}", style="yellow", markup=False)
    print_findings(console, findings)
