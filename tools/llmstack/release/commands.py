"""`llmstack release`: candidates, the way into service, and the way back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from llm_policy.prompt_runtime import PromptRuntimeManager
from llm_policy.release import Release, ReleaseError
from llmstack.events.attempt_log import json_log
from llmstack.paths import DEFAULT_STATE_DIR, PROJECT_ROOT
from llmstack.release import journal
from llmstack.release.build_manifest import Build, BuiltFile, list_files
from llmstack.release.evidence import KINDS, MISSING, read_evidence
from llmstack.release.gates import Evidence, Finding, check_gates
from llmstack.release.journal import Change, ChangeUnderWay, Side, previous_release
from llmstack.release.operator import Operator, Outcome
from llmstack.release.publish import publish as publish_release
from llmstack.release.publish import source_commit
from llmstack.release.signed_off import BoardAccess
from llmstack.release.store import ReleaseStore, StoreError
from llmstack.serve import pick_engine
from llmstack.serve_options import EngineChoice
from llmstack.server_error import ServerStartError
from llmstack.stop_signals import StopRequested
from llmstack.terminal import DIFFERENT, fail, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Releases: publish candidates, see what they lack, promote one, roll back.",
)

NUM_SIGN_OFFS = 2
ArtifactsDir = Annotated[
    Path,
    typer.Option(
        "--artifacts",
        envvar="LLMSTACK_ARTIFACTS_DIR",
        help="Holds releases/ and current, the link to the one in service.",
    ),
]
StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The state directory of `llmstack serve`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ReleaseName = Annotated[str, typer.Argument(help="A release's name, or its directory.", show_default=False)]
Against = Annotated[
    list[Path] | None,
    typer.Option(help="A runtime manifest of Module 6, besides those in the release's module6/. Repeatable."),
]
BoardUrl = Annotated[
    str | None, typer.Option(envvar="LLMSTACK_BOARD_URL", help="The readiness board.", show_default=False)
]
BoardTokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="LLMSTACK_BOARD_TOKEN_FILE",
        help="A file with a token of `llmstack board reader add`.",
        show_default=False,
    ),
]
NumSignOffs = Annotated[
    int,
    typer.Option(
        "--required-sign-offs", envvar="LLMSTACK_REQUIRED_SIGN_OFFS", min=0, help="Reviewers who must have signed."
    ),
]
DEFAULT_ARTIFACTS_DIR = PROJECT_ROOT / "artifacts"


@app.command()
def publish(
    directory: Annotated[Path, typer.Argument(help="The release; it is copied unless it is in the store already.")],
    name: Annotated[str | None, typer.Option(help="Its name.", show_default="the directory's")] = None,
    build_command: Annotated[str, typer.Option(help="How it was built, for build_manifest.json.")] = "",
    commit: Annotated[str, typer.Option("--source-commit", help="Of what it was built.", show_default="git's")] = "",
    tensorrt_llm_version: Annotated[str, typer.Option(help="What built the engine.")] = "",
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    as_json: AsJson = False,
) -> None:
    """Check a release, write its build_manifest.json, and register it as a candidate.

    A build manifest that is there already is kept, and every file must be the one that it names.

    Example: llmstack release publish build/qwen3-32b-r7 --build-command "trtllm-build …" --tensorrt-llm-version 1.1.0
    """
    console = Console(stderr=True, highlight=False)
    build = Build(
        command=build_command,
        source_commit=commit or source_commit(directory),
        tensorrt_llm_version=tensorrt_llm_version,
    )
    try:
        with console.status("publishing") as status:
            release = publish_release(
                ReleaseStore(artifacts), directory, name or directory.resolve().name, build, status.update
            )
    except (ReleaseError, StoreError) as error:
        fail(error, "llmstack manifest verify DIR shows what belongs there")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "make the artifacts directory writable")
    if as_json:
        print_json({"release": release.directory.name, **PromptRuntimeManager(release).summary()})
    else:
        typer.echo(f"{release.directory.name} is a candidate: engine {release.manifest.engine.hash}")
        typer.echo(f"next: llmstack warmup --release {release.directory} --serve, then smoke, signatures, promote")


@app.command("list")
def list_releases(artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR, as_json: AsJson = False) -> None:
    """Every release in the store, with its evidence.

    Example: llmstack release list --json
    """
    store = ReleaseStore(artifacts)
    rows = [_listed(store, name) for name in store.names()]
    if as_json:
        print_json(rows)
        return
    table = Table("release", "state", "model", "engine", "manifest", *KINDS, title_justify="left")
    for row in rows:
        hashes = (str(row[key])[7:19] for key in ("engine_hash", "manifest_hash"))
        table.add_row(row["release"], row["state"], row["model"], *hashes, *(row[kind] for kind in KINDS))
    Console().print(table)


@app.command()
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
    change = changes.open_change()
    back = previous_release(changes.changes(), store.link, str(current or ""))
    document: dict[str, Any] = {
        "in_service": current.name if current else None,
        "rollback_leads_to": back.name if back else None,
        "under_way": _change_document(change) if change else None,
    }
    findings: list[Finding] = []
    if name is not None:
        evidence = Evidence(against or (), _board(board_url, board_token_file), required_sign_offs, state_dir)
        findings = _findings(_candidate(store, name), evidence)
        document["gates"] = {finding.gate: list(finding.missing) for finding in findings}
    if as_json:
        print_json(document)
    else:
        _print_status(document, findings)
    if change or any(finding.missing for finding in findings):
        raise typer.Exit(DIFFERENT)


@app.command()
def diff(
    a: ReleaseName, b: ReleaseName, artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR, as_json: AsJson = False
) -> None:
    """What differs between two releases: the manifests by key, the files by SHA-256. Exits as `diff` does.

    Example: llmstack release diff qwen3-32b-r6 qwen3-32b-r7
    """
    store = ReleaseStore(artifacts)
    one, other = _candidate(store, a), _candidate(store, b)
    keys = PromptRuntimeManager(one).verify(other.manifest)
    with Console(stderr=True).status("hashing both"):
        files = _file_differences(list_files(one.directory), list_files(other.directory))
    if as_json:
        print_json({"manifest": [difference._asdict() for difference in keys], "files": files})
    else:
        console = Console(soft_wrap=True, highlight=False)
        for key, ours, theirs in keys:
            console.print(f"{key}: {ours!r} → {theirs!r}", markup=False)
        for path, what in files.items():
            console.print(f"{path}: {what}", markup=False)
        if not keys and not files:
            console.print("no difference")
    if keys or files:
        raise typer.Exit(DIFFERENT)


@app.command()
def history(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """Every promotion and rollback with its cause and outcome, the newest first.

    Example: llmstack release history --json
    """
    changes = journal.ReleaseJournal(state_dir).changes()[::-1]
    if as_json:
        print_json([_change_document(change) for change in changes])
        return
    table = Table("when", "what", "from", "to", "outcome", "seconds", "why", title_justify="left")
    for change in changes:
        why = "; ".join(text for text in (change.reason, change.detail) if text)
        seconds = "" if change.duration_s is None else f"{change.duration_s:.1f}"
        outcome = f"at {change.step}" if change.is_open else change.outcome
        table.add_row(
            _utc(change.requested_ns), change.kind, change.source.name, change.target.name, outcome, seconds, why
        )
    Console().print(table)


@app.command()
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
    target = _candidate(store, name)
    if override is not None and not override.strip():
        fail("--override has no reason", 'say why: --override "the board is down, incident 4711"')
    evidence = Evidence(against or (), _board(board_url, board_token_file), required_sign_offs, state_dir)
    lacking = [finding for finding in _findings(target, evidence) if finding.missing]
    current = store.in_service()
    if current == target.directory:
        fail(f"{target.directory.name} is in service already", "llmstack release list shows the candidates")
    if any(finding.is_absolute for finding in lacking) or (lacking and override is None):
        _refuse(target, lacking, as_json)
    change = _request(
        operator,
        journal.PROMOTION,
        store,
        Side.of(target),
        reason=override or "",
        overridden=tuple(f"{finding.gate}: {text}" for finding in lacking for text in finding.missing),
        start_timeout_s=start_timeout_s,
    )
    _finish(operator, change, as_json)


@app.command()
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

    Works while the server is dead too: then the release is proven on a server of its own. Exits with 0 when the release
    is in service, with 1 when there is nothing to go back to or it does not start.

    Example: llmstack release rollback --root-cause "judge scores everything 7 since r7"
    """
    if not root_cause.strip():
        fail("--root-cause is empty", "say what went wrong: those who read the event need it")
    store = ReleaseStore(artifacts)
    operator = _operator(store, state_dir, engine)
    _settle(operator)
    current = store.in_service()
    back = previous_release(operator.journal.changes(), store.link, str(current or ""))
    if back is None:
        _refuse_rollback("no release was in service before this one", as_json)
    try:
        target = Release.open(back.directory).verify_files()
    except ReleaseError as error:
        _refuse_rollback(f"{back.name} is not what it was: {error}", as_json)
    if Side.of(target) != back:
        _refuse_rollback(f"the manifest of {back.name} is not the one that was in service", as_json)
    change = _request(
        operator, journal.ROLLBACK, store, back, reason=root_cause.strip(), start_timeout_s=start_timeout_s
    )
    _finish(operator, change, as_json)


def _operator(store: ReleaseStore, state_dir: Path, engine: EngineChoice) -> Operator:
    def engine_of(release: Release) -> str:
        return engine.value if engine else pick_engine(release)

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    return Operator(state_dir, store.link, engine_of, lambda line: console.print(line, markup=False), json_log())


def _settle(operator: Operator) -> None:
    try:
        operator.settle()
    except ServerStartError as error:
        fail(f"an interrupted change could not be settled: {error}", error.next_step)


def _candidate(store: ReleaseStore, name: str) -> Release:
    try:
        return Release.open(store.directory(name))
    except (StoreError, ReleaseError) as error:
        fail(error, "llmstack release list shows what there is; llmstack release publish DIR adds one")


def _board(url: str | None, token_file: Path | None) -> BoardAccess | None:
    if url is None:
        return None
    if token_file is None:
        fail("--board-url without --board-token-file", "llmstack board reader add NAME makes a token")
    return BoardAccess(url, token_file)


def _findings(release: Release, evidence: Evidence) -> list[Finding]:
    with Console(stderr=True).status("checking") as status:
        return check_gates(release, evidence, lambda gate: status.update(f"checking {gate}"))


def _request(operator: Operator, kind: str, store: ReleaseStore, target: Side, **facts: Any) -> Change:
    current = store.in_service()
    try:
        source = Side.of(Release.open(current)) if current else Side()
    except ReleaseError:  # broken: all the more reason to leave it
        source = Side(str(current))
    try:
        return operator.journal.request(kind, store.link, source, target, time.time_ns(), **facts)
    except ChangeUnderWay:
        fail(
            "another promotion or rollback is under way",
            "llmstack release status shows it; ask again when it has ended",
        )


def _finish(operator: Operator, change: Change, as_json: bool) -> NoReturn:
    try:
        outcome = operator.carry_out(change)
    except ServerStartError as error:
        fail(error, error.next_step)
    except (StopRequested, KeyboardInterrupt):
        fail("interrupted", "llmstack release status shows how far it came; the next command settles it")
    if as_json:
        print_json({**_change_document(outcome.change), "is_served": outcome.is_served})
    else:
        _print_outcome(outcome)
    raise typer.Exit(0 if outcome.change.outcome == journal.COMPLETED else DIFFERENT)


def _print_outcome(outcome: Outcome) -> None:
    change = outcome.change
    console = Console(soft_wrap=True, highlight=False)
    if change.outcome == journal.COMPLETED:
        console.print(f"{change.target.name} is in service, {change.duration_s:.1f} s after the request", style="green")
        if not outcome.is_served:
            console.print("next: start llmstack serve; none runs on this state directory")
        return
    console.print(f"{change.kind} of {change.target.name} {change.outcome}: {change.detail}", style="red", markup=False)
    if change.outcome == journal.UNDONE and change.source.name:
        console.print(f"{change.source.name} is in service as before", markup=False)


def _refuse(release: Release, lacking: Sequence[Finding], as_json: bool) -> NoReturn:
    if as_json:
        print_json({"outcome": journal.REFUSED, "missing": {each.gate: list(each.missing) for each in lacking}})
    else:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"{release.directory.name} may not be promoted:", style="red", markup=False)
        _print_findings(console, lacking)
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


def _print_findings(console: Console, findings: Sequence[Finding]) -> None:
    for finding in findings:
        console.print(f"  {'✘' if finding.missing else '✔'} {finding.gate}", markup=False)
        for text in finding.missing:
            console.print(f"      {text}", markup=False)


def _print_status(document: dict[str, Any], findings: Sequence[Finding]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"in service         {document['in_service'] or 'nothing'}", markup=False)
    console.print(f"rollback leads to  {document['rollback_leads_to'] or 'nothing'}", markup=False)
    if change := document["under_way"]:
        text = f"{change['kind']} of {change['to']} at {change['step']}"
        console.print(f"under way          {text}", style="yellow", markup=False)
    _print_findings(console, findings)


def _listed(store: ReleaseStore, name: str) -> dict[str, Any]:
    is_current = store.in_service() == (store.releases_dir / name).resolve()
    state = "in service" if is_current else "candidate" if store.is_published(name) else "not published"
    row: dict[str, Any] = {"release": name, "state": state, "model": "", "engine_hash": "", "manifest_hash": ""}
    try:
        release = Release.open(store.releases_dir / name)
    except ReleaseError as error:
        return row | {"state": f"broken: {str(error).splitlines()[0]}"} | dict.fromkeys(KINDS, MISSING)
    engine = release.manifest.engine
    row |= {"model": engine.model, "engine_hash": engine.hash, "manifest_hash": release.manifest_hash}
    return row | {kind: read_evidence(release, kind).verdict for kind in KINDS}


def _file_differences(ours: list[BuiltFile], theirs: list[BuiltFile]) -> dict[str, str]:
    one, other = ({file.path: file for file in files} for files in (ours, theirs))
    return {
        **dict.fromkeys(sorted(one.keys() - other.keys()), "only in the first"),
        **dict.fromkeys(sorted(other.keys() - one.keys()), "only in the second"),
        **{path: "differs" for path in sorted(one.keys() & other.keys()) if one[path] != other[path]},
    }


def _change_document(change: Change) -> dict[str, Any]:
    return {
        "id": change.id,
        "kind": change.kind,
        "from": change.source.name,
        "to": change.target.name,
        "from_engine_hash": change.source.engine_hash,
        "from_manifest_hash": change.source.manifest_hash,
        "engine_hash": change.target.engine_hash,
        "manifest_hash": change.target.manifest_hash,
        "outcome": change.outcome,
        "step": change.step,
        "reason": change.reason,
        "overridden": list(change.overridden),
        "detail": change.detail,
        "requested_at": _utc(change.requested_ns),
        "duration_s": change.duration_s,
    }


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, timezone.utc).isoformat().replace("+00:00", "Z")
