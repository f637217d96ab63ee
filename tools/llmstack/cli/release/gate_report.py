"""A release and what it lacks, as commands ask for it and show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llm_policy.release.release import Release, ReleaseError
from llmstack.cli.release.options import min_sign_offs
from llmstack.cli.terminal import fail
from llmstack.release.board_client import BoardAccess
from llmstack.release.promotion_gates import GateInputs, GateResult, check_gates
from llmstack.release.store import ReleaseStore, StoreError


def find_release(store: ReleaseStore, name: str) -> Release:
    """The release of this name in the store; ends the command where there is none."""
    try:
        return Release.open(store.directory(name))
    except (StoreError, ReleaseError) as error:
        fail(error, "llmstack release list shows what there is; llmstack release publish DIR adds one")


def board_access(url: str | None, token_file: Path | None) -> BoardAccess | None:
    """The board that the options name; ends the command where they name half of one."""
    if url is None:
        return None
    if token_file is None:
        fail("--board-url without --board-token-file", "llmstack board reader add NAME makes a token")
    return BoardAccess(url, token_file)


def evidence_of(
    against: Sequence[Path] | None,
    board_url: str | None,
    board_token_file: Path | None,
    num_sign_offs: int,
    state_dir: Path,
) -> GateInputs:
    """Where the options say that the gates shall look; ends the command where they name half of a board."""
    board = board_access(board_url, board_token_file)
    return GateInputs(against or (), board, num_sign_offs, state_dir, min_sign_offs())


def check_visibly(release: Release, evidence: GateInputs) -> list[GateResult]:
    """Every gate, while the terminal shows which one."""
    with Console(stderr=True).status("checking") as status:
        return check_gates(release, evidence, lambda gate: status.update(f"checking {gate}"))


def print_findings(console: Console, findings: Sequence[GateResult]) -> None:
    """A line for each gate, and one for all that it lacks."""
    for finding in findings:
        console.print(f"  {'✘' if finding.missing else '✔'} {finding.gate}", markup=False)
        for text in finding.missing:
            console.print(f"      {text}", markup=False)
