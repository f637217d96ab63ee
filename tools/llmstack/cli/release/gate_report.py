"""Checks the promotion gates for a command, and prints their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from llmstack.cli.release.options import min_sign_offs
from llmstack.cli.terminal import fail

if TYPE_CHECKING:
    from llm_policy.release.release import Release
    from llmstack.release.gate_facts import GateSources
    from llmstack.release.promotion_gates import GateResult
    from llmstack.release.store import ReleaseStore


def find_release(store: ReleaseStore, name: str) -> Release:
    """The release of this name in the store; exits if there is none."""
    from llm_policy.release.release import Release, ReleaseError
    from llmstack.release.store import StoreError

    try:
        return Release.open(store.directory(name))
    except (StoreError, ReleaseError) as error:
        fail(error, "llmstack release list shows the releases; llmstack release publish DIR adds one")


def gate_sources(
    against: Sequence[Path] | None,
    board_url: str | None,
    board_token_file: Path | None,
    required_sign_offs: int,
    state_dir: Path,
) -> GateSources:
    """The gates' sources from the command line; exits if the board is only half configured."""
    from llmstack.release.board_client import BoardAccess
    from llmstack.release.gate_facts import GateSources

    board = None
    if board_url is not None:
        if board_token_file is None:
            fail("--board-url without --board-token-file", "llmstack board reader add NAME makes a token")
        board = BoardAccess(board_url, board_token_file)
    return GateSources(against or (), board, required_sign_offs, state_dir, min_sign_offs())


def check_gates_with_progress(release: Release, sources: GateSources) -> list[GateResult]:
    """The result of every gate; the terminal shows what is being checked."""
    from llmstack.release.promotion_gates import check_gates

    with Console(stderr=True).status("checking") as status:
        return check_gates(release, sources, lambda step: status.update(f"checking {step}"))


def print_gates(console: Console, results: Sequence[GateResult]) -> None:
    """Print a line for each gate, and one for everything that it misses."""
    for result in results:
        console.print(f"  {'✘' if result.missing else '✔'} {result.gate}", markup=False)
        for text in result.missing:
            console.print(f"      {text}", markup=False)
