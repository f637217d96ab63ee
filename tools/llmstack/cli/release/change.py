"""`llmstack release promote` and `rollback`: what is in service changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from llm_policy.release.release import Release, ReleaseError
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
    ReleaseName,
    StateDir,
)
from llmstack.cli.serve_options import EngineChoice
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.events.attempt_log import json_log
from llmstack.paths import DEFAULT_STATE_DIR
from llmstack.release import journal
from llmstack.release.build_manifest import check_published
from llmstack.release.change_document import change_document
from llmstack.release.change_executor import ChangeExecutor, ExecutedChange
from llmstack.release.current_user import account
from llmstack.release.journal import Approval, Change, ChangeUnderWay, ReleaseRef, previous_release
from llmstack.release.promotion_gates import GateResult
from llmstack.release.store import ReleaseStore, check_switchable
from llmstack.release.supersession import is_taken_back_by_rollback, superseded_by
from llmstack.server.release import pick_engine


def promote(
    name: ReleaseName,
    override: Annotated[
        str | None,
        typer.Option(help="Promote in spite of what is missing; the reason is recorded and sent.", show_default=False),
    ] = None,
    against: Against = None,
    board_url: BoardUrl = None,
    board_token_file: BoardTokenFile = None,
    required_sign_offs: NumSignOffs = NUM_SIGN_OFFS,
    start_timeout_s: Annotated[
        float | None,
        typer.Option("--start-timeout-secs", min=1, help="How long its models may load.", show_default="the service's"),
    ] = None,
    engine: EngineChoice = None,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Put a release into service, once every gate is passed.

    The `llmstack serve` that works on the state directory drains, switches, starts and proves the release, and goes
    back by itself when it can't. Where none runs, the release is proven on a server that ends afterwards. Exits with 0
    when the release is in service, with 1 when it was refused or taken back.

    Example: llmstack release promote qwen3-32b-r7 --board-url http://board:8004 --board-token-file board.token
    """
    store = ReleaseStore(artifacts)
    operator = _operator(store, state_dir, engine)
    _settle(operator)
    target = find_release(store, name)
    if override is not None and not override.strip():
        fail("--override has no reason", 'say why: --override "the board is down, incident 4711"')
    if store.in_service() == target.directory:
        fail(f"{target.directory.name} is in service already", "llmstack release list shows the candidates")
    evidence = evidence_of(against, board_url, board_token_file, required_sign_offs, state_dir)
    findings = check_visibly(target, evidence)
    lacking = [finding for finding in findings if finding.missing]
    if any(finding.is_absolute for finding in lacking) or (lacking and override is None):
        _refuse(target, lacking, as_json)
    reviewers = tuple(name for finding in findings for name in finding.reviewers)
    change = _request(
        operator,
        journal.PROMOTION,
        _side_in_service(store),
        ReleaseRef.of(target),
        reason=override or "",
        overridden=tuple(f"{finding.gate}: {text}" for finding in lacking for text in finding.missing),
        approval=Approval(account(), required_sign_offs, reviewers),
        start_timeout_s=start_timeout_s,
    )
    _finish(operator, change, as_json)


def rollback(
    root_cause: Annotated[str, typer.Option(help="Why; it is recorded and sent.", show_default=False)],
    start_timeout_s: Annotated[
        float | None,
        typer.Option("--start-timeout-secs", min=1, help="How long its models may load.", show_default="the service's"),
    ] = None,
    engine: EngineChoice = None,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Go back to the engine and the manifest that were in service before the last promotion.

    While a promotion is under way, it is that one which is taken back, at once, however long its start may hang. Works
    while the server is dead too: then the release is proven on a server of its own. Exits with 0 when the release is in
    service, with 1 when there is nothing to go back to or it does not start.

    Example: llmstack release rollback --root-cause "judge scores everything 7 since r7"
    """
    if not root_cause.strip():
        fail("--root-cause is empty", "say what went wrong: those who read the event need it")
    store = ReleaseStore(artifacts)
    operator = _operator(store, state_dir, engine)
    _settle(operator)
    source, back = _way_back(operator, store)
    if back is None:
        _refuse_rollback("no release was in service before this one", as_json)
    if why := _why_not_back(back):
        _refuse_rollback(why, as_json)
    change = _request(
        operator,
        journal.ROLLBACK,
        source,
        back,
        reason=root_cause.strip(),
        approval=Approval(account()),
        start_timeout_s=start_timeout_s,
    )
    _finish(operator, change, as_json)


def _way_back(operator: ChangeExecutor, store: ReleaseStore) -> tuple[ReleaseRef, ReleaseRef | None]:
    """What a rollback leaves, and what it leads to."""
    with operator_faults():
        under_way = operator.journal.open_change()
        if under_way is not None and is_taken_back_by_rollback(under_way):
            return under_way.target, under_way.source if under_way.source.directory else None
        source = _side_in_service(store)
        return source, previous_release(operator.journal.changes(), store.link, source.directory)


def _why_not_back(back: ReleaseRef) -> str:
    """Why the release that was in service before can't be so again; empty when it can."""
    try:
        target = Release.open(back.directory).verify_files()
        if ReleaseRef.of(target) != back:
            return f"the manifests of {back.name} are not those that were in service"
    except (ReleaseError, OSError) as error:
        return f"{back.name} is not what it was: {error}"
    findings = check_published(target.directory)
    return f"{back.name} is not what it was: {'; '.join(findings)}" if findings else ""


def _operator(store: ReleaseStore, state_dir: Path, engine: EngineChoice) -> ChangeExecutor:
    def engine_of(release: Release) -> str:
        return engine.value if engine else pick_engine(release)

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    return ChangeExecutor(state_dir, store.link, engine_of, lambda line: console.print(line, markup=False), json_log())


def _settle(operator: ChangeExecutor) -> None:
    with operator_faults():
        operator.settle()


def _side_in_service(store: ReleaseStore) -> ReleaseRef:
    current = store.in_service()
    try:
        return ReleaseRef.of(Release.open(current)) if current else ReleaseRef()
    except (ReleaseError, OSError):  # broken: all the more reason to leave it
        return ReleaseRef(str(current))


def _request(
    operator: ChangeExecutor, kind: str, source: ReleaseRef, target: ReleaseRef, *, reason: str, **facts: Any
) -> Change:
    link = operator.link
    try:
        check_switchable(link)
    except OSError as error:
        fail(f"{link} can't be switched: {(error.strerror or str(error)).lower()}", f"make {link.parent} writable")
    with operator_faults():
        now_ns = time.time_ns()
        under_way = operator.journal.open_change()
        superseded = superseded_by(kind, reason, under_way, now_ns) if under_way else None
        try:
            return operator.journal.request(
                kind, link, source, target, now_ns, reason=reason, superseded=superseded, **facts
            )
        except ChangeUnderWay:
            fail(
                "another promotion or rollback is under way",
                "llmstack release status shows it; ask again when it has ended",
            )


def _finish(operator: ChangeExecutor, change: Change, as_json: bool) -> NoReturn:
    with operator_faults():
        outcome = operator.carry_out(change)
    if as_json:
        print_json({**change_document(outcome.change), "is_served": outcome.is_served})
    else:
        _print_outcome(outcome)
    raise typer.Exit(0 if outcome.change.outcome == journal.COMPLETED else DIFFERENT)


def _print_outcome(outcome: ExecutedChange) -> None:
    change = outcome.change
    console = Console(soft_wrap=True, highlight=False)
    if change.outcome == journal.COMPLETED:
        console.print(f"{change.target.name} is in service, {change.duration_s:.1f} s after the request", style="green")
        if not outcome.is_served:
            console.print("next: start llmstack serve; none runs on this state directory")
        return
    if change.is_open:
        console.print(f"{change.kind} of {change.target.name}: {change.detail}", style="red", markup=False)
        console.print("llmstack serve goes on trying; a rollback or another promotion may be asked for meanwhile")
        return
    console.print(f"{change.kind} of {change.target.name} {change.outcome}: {change.detail}", style="red", markup=False)
    if change.outcome == journal.UNDONE and change.source.name:
        console.print(f"{change.source.name} is in service as before", markup=False)


def _refuse(release: Release, lacking: Sequence[GateResult], as_json: bool) -> NoReturn:
    if as_json:
        print_json({"outcome": journal.REFUSED, "missing": {each.gate: list(each.missing) for each in lacking}})
    else:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"{release.directory.name} may not be promoted:", style="red", markup=False)
        print_findings(console, lacking)
        if not any(each.is_absolute for each in lacking):
            console.print('next:  do what is said above, or give --override "reason", which is recorded and sent')
    raise typer.Exit(DIFFERENT)


def _refuse_rollback(why: str, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"outcome": journal.REFUSED, "detail": why})
    else:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"error: nothing to go back to: {why}", style="red", markup=False)
        console.print("next:  llmstack release promote NAME puts another release into service", markup=False)
    raise typer.Exit(DIFFERENT)
