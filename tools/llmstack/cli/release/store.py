"""`llmstack release publish`, `list` and `diff`: the releases in the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmstack.cli.release.errors import exit_on_change_errors, os_error_text
from llmstack.cli.release.gate_report import find_release
from llmstack.cli.release.options import ArtifactsDir, AsJson, ReleaseName, StateDir
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_ARTIFACTS_DIR, DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from llmstack.release.build_manifest import BuiltFile
    from llmstack.release.change import Change
    from llmstack.release.store import ReleaseStore


def publish(
    directory: Annotated[Path, typer.Argument(help="The release; it is copied into the store unless it is there.")],
    name: Annotated[str | None, typer.Option(help="The release's name.", show_default="the directory's")] = None,
    build_command: Annotated[str, typer.Option(help="The command that built it, for build_manifest.json.")] = "",
    commit: Annotated[
        str,
        typer.Option("--source-commit", help="The commit of its sources.", show_default="the Git checkout's"),
    ] = "",
    tensorrt_llm_version: Annotated[str, typer.Option(help="The version that built the engine.")] = "",
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    as_json: AsJson = False,
) -> None:
    """Check a release, write its build_manifest.json, and register it as a candidate.

    An existing build manifest is kept, and every file must match it.

    Example: llmstack release publish build/qwen3-32b-r7 --build-command "trtllm-build …" --tensorrt-llm-version 1.1.0
    """
    from llm_policy.prompt_runtime import PromptRuntimeManager
    from llm_policy.release.release import ReleaseError
    from llmstack.release.build_manifest import Build
    from llmstack.release.publish import BuildDiffersError, source_commit
    from llmstack.release.publish import publish as publish_release
    from llmstack.release.store import ReleaseStore, StoreError

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
    except BuildDiffersError as error:
        fail(error, error.next_step)
    except (ReleaseError, StoreError) as error:
        fail(error, "llmstack manifest verify DIR lists the files that differ")
    except OSError as error:
        fail(os_error_text(error), "make the artifacts directory writable, and free disk space", EXIT_FAILED)
    if as_json:
        print_json({"release": release.directory.name, **PromptRuntimeManager(release).summary()})
    else:
        typer.echo(f"{release.directory.name} is a candidate: engine {release.manifest.engine.hash}")
        typer.echo(f"next: llmstack warmup --release {release.directory} --serve, then smoke, sign-offs, promote")


def list_releases(
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False
) -> None:
    """List every release in the store with its state and the status of its check runs.

    A release that was rolled back needs new sign-offs; `llmstack release history` has the cause.

    Example: llmstack release list --json
    """
    from llmstack.release.evidence import KINDS
    from llmstack.release.journal import ReleaseJournal
    from llmstack.release.store import ReleaseStore

    store = ReleaseStore(artifacts)
    with exit_on_change_errors():
        changes = ReleaseJournal(state_dir).changes()
    rows = [_row(store, name, changes) for name in store.names()]
    if as_json:
        print_json(rows)
        return
    table = Table("release", "state", "model", "engine", "manifest", *KINDS, title_justify="left")
    for row in rows:
        hashes = (str(row[key])[7:19] for key in ("engine_hash", "manifest_hash"))
        table.add_row(row["release"], row["state"], row["model"], *hashes, *(row[kind] for kind in KINDS))
    Console().print(table)


def diff(
    a: ReleaseName, b: ReleaseName, artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR, as_json: AsJson = False
) -> None:
    """Compare two releases: the manifests by key, the files by SHA-256. Exits with 1 on any difference.

    Example: llmstack release diff qwen3-32b-r6 qwen3-32b-r7
    """
    from llm_policy.prompt_runtime import PromptRuntimeManager
    from llmstack.release.build_manifest import BuildManifestError, list_files
    from llmstack.release.store import ReleaseStore

    store = ReleaseStore(artifacts)
    one, other = find_release(store, a), find_release(store, b)
    differences = PromptRuntimeManager(one).verify(other.manifest)
    try:
        with Console(stderr=True).status("hashing both releases"):
            files = _file_differences(list_files(one.directory), list_files(other.directory))
    except (BuildManifestError, OSError) as error:
        text = os_error_text(error) if isinstance(error, OSError) else error
        fail(text, "replace it by a regular, readable file; llmstack release publish checks them all")
    if as_json:
        print_json({"manifest": [difference._asdict() for difference in differences], "files": files})
    else:
        console = Console(soft_wrap=True, highlight=False)
        for key, ours, theirs in differences:
            console.print(f"{key}: {ours!r} → {theirs!r}", markup=False)
        for path, difference in files.items():
            console.print(f"{path}: {difference}", markup=False)
        if not differences and not files:
            console.print("no difference")
    if differences or files:
        raise typer.Exit(EXIT_FAILED)


def _row(store: ReleaseStore, name: str, changes: Sequence[Change]) -> dict[str, Any]:
    from llm_policy.release.release import Release, ReleaseError
    from llmstack.release.change import ReleaseRef
    from llmstack.release.evidence import KINDS, MISSING, read_evidence
    from llmstack.release.last_rollback import is_rolled_back

    is_current = store.in_service() == (store.releases_dir / name).resolve()
    state = "in service" if is_current else "candidate" if store.is_published(name) else "not published"
    row: dict[str, Any] = {"release": name, "state": state, "model": "", "engine_hash": "", "manifest_hash": ""}
    try:
        release = Release.open(store.releases_dir / name)
    except ReleaseError as error:
        return row | {"state": f"broken: {str(error).splitlines()[0]}"} | dict.fromkeys(KINDS, MISSING)
    engine = release.manifest.engine
    if not is_current and is_rolled_back(changes, ReleaseRef.of(release)):
        row["state"] = "rolled back"
    row |= {"model": engine.model, "engine_hash": engine.hash, "manifest_hash": release.manifest_hash}
    return row | {kind: read_evidence(release, kind).status for kind in KINDS}


def _file_differences(ours: list[BuiltFile], theirs: list[BuiltFile]) -> dict[str, str]:
    one, other = ({file.path: file for file in files} for files in (ours, theirs))
    return {
        **dict.fromkeys(sorted(one.keys() - other.keys()), "only in the first"),
        **dict.fromkeys(sorted(other.keys() - one.keys()), "only in the second"),
        **{path: "differs" for path in sorted(one.keys() & other.keys()) if one[path] != other[path]},
    }
