"""`llmstack release promote` and `rollback`: change the release in service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from llmstack.cli.release.errors import exit_on_change_errors
from llmstack.cli.release.gate_report import check_gates_with_progress, find_release, gate_sources, print_gates
from llmstack.cli.release.options import (
    Against,
    ArtifactsDir,
    AsJson,
    BoardTokenFile,
    BoardUrl,
    NumSignOffs,
    ReleaseName,
    StartTimeoutS,
    StateDir,
)
from llmstack.cli.serve_options import EngineChoice
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_ARTIFACTS_DIR, DEFAULT_STATE_DIR
from llmstack.release.defaults import NUM_SIGN_OFFS

if TYPE_CHECKING:
    from llm_policy.release.release import Release
    from llmstack.release.change import ChangeRequest
    from llmstack.release.change_executor import ChangeExecutor, ExecutedChange
    from llmstack.release.promotion_gates import GateResult
    from llmstack.release.store import ReleaseStore


def promote(
    name: ReleaseName,
    override: Annotated[
        str | None,
        typer.Option(
            help="Promote although gates have not passed; the reason is recorded and sent in the event.",
            show_default=False,
        ),
    ] = None,
    against: Against = None,
    board_url: BoardUrl = None,
    board_token_file: BoardTokenFile = None,
    required_sign_offs: NumSignOffs = NUM_SIGN_OFFS,
    start_timeout_s: StartTimeoutS = None,
    engine: EngineChoice = None,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Put a release into service after every gate has passed.

    The running `llmstack serve` drains, switches, and starts and checks the release; if that fails, it returns to the
    release before. There is no service meanwhile, about 20 s and as long as a large engine takes to load: clients get
    `draining`, then no connection. Where no service runs, a temporary server checks the release. Exits with 0 when the
    release is in service, with 1 when it was rejected or taken back.

    Example: llmstack release promote qwen3-32b-r7 --board-url http://board:8004 --board-token-file board.token
    """
    from llmstack.release.change import PROMOTION, Approval, ChangeRequest, ReleaseRef
    from llmstack.release.change_request import current_user, release_in_service
    from llmstack.release.store import ReleaseStore

    store = ReleaseStore(artifacts)
    executor = _executor(store, state_dir, engine)
    _resolve_interrupted(executor)
    target = find_release(store, name)
    if override is not None and not override.strip():
        fail("--override has no reason", 'give a reason: --override "the board is down, incident 4711"')
    if store.in_service() == target.directory:
        fail(f"{target.directory.name} is in service already", "llmstack release list shows the candidates")
    sources = gate_sources(against, board_url, board_token_file, required_sign_offs, state_dir)
    results = check_gates_with_progress(target, sources)
    failed = [result for result in results if result.missing]
    if any(result.is_absolute for result in failed) or (failed and override is None):
        _reject_promotion(target, failed, as_json)
    request = ChangeRequest(
        PROMOTION,
        executor.link,
        release_in_service(store),
        ReleaseRef.of(target),
        reason=override or "",
        overridden=tuple(f"{result.gate}: {text}" for result in failed for text in result.missing),
        approval=Approval(
            current_user(), required_sign_offs, tuple(name for result in results for name in result.reviewers)
        ),
        start_timeout_s=start_timeout_s,
    )
    _execute(executor, request, as_json)


def rollback(
    root_cause: Annotated[
        str, typer.Option(help="What went wrong; it is recorded and sent in the event.", show_default=False)
    ],
    start_timeout_s: StartTimeoutS = None,
    engine: EngineChoice = None,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Return to the engine and manifest that were in service before the last promotion.

    The command says from which release to which one, before and after. Clients see the same gap as with a promotion. A
    promotion in progress is taken back immediately, even if its start hangs. Works while the server is down, too: a
    temporary server then checks the release. Exits with 0 when the release is in service, with 1 when there is no
    release to return to or it does not start.

    Example: llmstack release rollback --root-cause "judge scores everything 7 since r7"
    """
    from llmstack.release.change import ROLLBACK, Approval, ChangeRequest
    from llmstack.release.change_request import check_rollback_target, current_user, rollback_releases
    from llmstack.release.store import ReleaseStore

    if not root_cause.strip():
        fail("--root-cause is empty", "say what went wrong, for the readers of the event")
    store = ReleaseStore(artifacts)
    executor = _executor(store, state_dir, engine)
    _resolve_interrupted(executor)
    with exit_on_change_errors():
        source, target = rollback_releases(executor.journal, store)
    if target is None:
        _reject_rollback("no release was in service before this one", as_json)
    if reason := check_rollback_target(target):
        _reject_rollback(reason, as_json)
    request = ChangeRequest(
        ROLLBACK,
        executor.link,
        source,
        target,
        reason=root_cause.strip(),
        approval=Approval(current_user()),
        start_timeout_s=start_timeout_s,
    )
    _execute(executor, request, as_json)


def _executor(store: ReleaseStore, state_dir: Path, engine: EngineChoice) -> ChangeExecutor:
    from llmstack.events.json_log import json_log
    from llmstack.release.change_executor import ChangeExecutor
    from llmstack.server.release import pick_engine

    def engine_of(release: Release) -> str:
        return engine.value if engine else pick_engine(release)

    return ChangeExecutor(state_dir, store.link, engine_of, _report, json_log())


def _report(line: str) -> None:
    """Print a line of progress to standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


def _resolve_interrupted(executor: ChangeExecutor) -> None:
    with exit_on_change_errors():
        executor.resolve_interrupted()


def _execute(executor: ChangeExecutor, request: ChangeRequest, as_json: bool) -> NoReturn:
    """Request the change, wait for its end, print the result and exit."""
    from llmstack.release.change import COMPLETED, change_document
    from llmstack.release.change_request import request_change
    from llmstack.release.journal import ChangeInProgress
    from llmstack.release.service_gap import describe_gap
    from llmstack.release.store import check_switchable
    from llmstack.supervision.state_directory import is_in_use

    link = request.link
    try:
        check_switchable(link)
    except OSError as error:
        fail(f"{link} can't be switched: {(error.strerror or str(error)).lower()}", f"make {link.parent} writable")
    with exit_on_change_errors():
        for line in describe_gap(request, executor.journal.changes(), is_served=is_in_use(executor.state_dir)):
            _report(line)
        try:
            change = request_change(executor.journal, request)
        except ChangeInProgress:
            fail(
                "another promotion or rollback is in progress",
                "llmstack release status shows it; try again when it has ended",
            )
    with exit_on_change_errors():
        executed = executor.execute(change)
    if as_json:
        print_json({**change_document(executed.change), "is_served": executed.is_served})
    else:
        _print_executed(executed)
    raise typer.Exit(0 if executed.change.outcome == COMPLETED else EXIT_FAILED)


def _print_executed(executed: ExecutedChange) -> None:
    from llmstack.release.change import COMPLETED, PROMOTION, UNDONE

    change = executed.change
    console = Console(soft_wrap=True, highlight=False)
    if change.outcome == COMPLETED:
        done = "promoted" if change.kind == PROMOTION else "rolled back"
        console.print(f"{done}: {change.source.name or 'nothing'} → {change.target.name}", markup=False)
        console.print(f"{change.target.name} is in service, {change.duration_s:.1f} s after the request", style="green")
        if not executed.is_served:
            console.print("next: start llmstack serve; none runs on this state directory")
        return
    outcome = "" if change.is_open else f" {change.outcome}"
    console.print(f"{change.kind} of {change.target.name}{outcome}: {change.detail}", style="red", markup=False)
    if change.is_open:
        console.print("llmstack serve keeps trying; you may request a rollback or another promotion meanwhile")
    elif change.outcome == UNDONE and change.source.name:
        console.print(f"{change.source.name} is in service as before", markup=False)


def _reject_promotion(release: Release, failed: Sequence[GateResult], as_json: bool) -> NoReturn:
    from llmstack.release.change import REFUSED

    if as_json:
        print_json({"outcome": REFUSED, "missing": {result.gate: list(result.missing) for result in failed}})
    else:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"{release.directory.name} can't be promoted:", style="red", markup=False)
        print_gates(console, failed)
        if not any(result.is_absolute for result in failed):
            console.print('next:  resolve the points above, or give --override "reason", which is recorded and sent')
    raise typer.Exit(EXIT_FAILED)


def _reject_rollback(reason: str, as_json: bool) -> NoReturn:
    from llmstack.release.change import REFUSED

    if as_json:
        print_json({"outcome": REFUSED, "detail": reason})
    else:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"error: no release to return to: {reason}", style="red", markup=False)
        console.print("next:  llmstack release promote NAME puts another release into service", markup=False)
    raise typer.Exit(EXIT_FAILED)
