"""The facts that the promotion gates decide on, and how a promotion gathers them: from files, ledger and board."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from llm_policy.release.release import Release
from llmstack.release.board_client import BoardAccess, BoardError, fetch_sign_offs
from llmstack.release.build_manifest import BuildManifestError, check_build, read_build_manifest
from llmstack.release.change import ReleaseRef
from llmstack.release.coverage import find_uncovered
from llmstack.release.error_alerts import OpenAlert, open_board_alerts, open_ledger_alerts
from llmstack.release.evidence import KINDS, PASSED, read_evidence
from llmstack.release.last_rollback import Rollback, latest, read_last_rollback
from llmstack.release.manifest_file import Alignment, read_alignments

_NO_BOARD = (
    "{} sign-offs needed and no board to ask: --board-url (LLMSTACK_BOARD_URL) and --board-token-file "
    "(LLMSTACK_BOARD_TOKEN_FILE)"
)


class GateSources(NamedTuple):
    """Where a promotion gathers facts besides the release itself."""

    against: Sequence[Path]  # manifests of the evaluation side, besides those in the release's `MODULE6`
    board: BoardAccess | None
    required_sign_offs: int  # of this promotion
    state_dir: Path
    min_sign_offs: int = 0  # as configured for this installation


class RunFacts(NamedTuple):
    """What the record of one kind of run shows."""

    kind: str
    status: str  # as in `evidence`: MISSING, PASSED, FAILED or STALE
    uncovered: Sequence[str] = ()  # of a run that passed: the parts of the release that it did not cover
    max_batch_size: object = None  # of a bench gate: the batch size that it ran, as recorded
    num_rows: int = 0
    num_failed_rows: int = 0


class SignOffFacts(NamedTuple):
    """Who signed a release off, and how many sign-offs its promotion needs."""

    reviewers: Sequence[str]
    required: int
    min_required: int = 0  # as configured for this installation
    error: str = ""  # why the reviewers are not known
    rollback: Rollback | None = None  # the release's last one; `reviewers` have signed after it


class GateFacts(NamedTuple):
    """What is known of a release; `release` is how commands in messages name it."""

    release: str
    engine_hash: str
    manifest_hash: str
    max_batch_size: int
    build_manifest_error: str
    alignments: Sequence[Alignment]
    runs: Sequence[RunFacts]  # one of each kind
    sign_offs: SignOffFacts
    alerts: Sequence[OpenAlert]
    alerts_error: str = ""  # why the alerts are not known
    file_differences: Sequence[str] = ()  # empty, too, when the files were not hashed


def gather_facts(release: Release, sources: GateSources, on_step: Callable[[str], None]) -> GateFacts:
    """Hash the files, and read the records, the ledger and the board; `on_step` receives what is read next."""
    on_step("files")
    file_differences, build_manifest_error = _check_files(release)
    on_step("alignment")
    alignments = read_alignments(release, sources.against)
    on_step("records of runs")
    runs = [_run_facts(release, kind) for kind in KINDS]
    on_step("alerts")
    alerts, alerts_error = _open_alerts(release, sources)
    on_step("sign-offs")
    return GateFacts(
        release=str(release.directory),
        engine_hash=release.manifest.engine.hash,
        manifest_hash=release.manifest_hash,
        max_batch_size=release.manifest.engine.max_batch_size,
        build_manifest_error=build_manifest_error,
        alignments=alignments,
        runs=runs,
        sign_offs=_sign_off_facts(release, sources),
        alerts=alerts,
        alerts_error=alerts_error,
        file_differences=file_differences,
    )


def _check_files(release: Release) -> tuple[list[str], str]:
    """The differences of the files to both manifests, and why there is no build manifest."""
    differences = release.check_files()
    try:
        manifest = read_build_manifest(release.directory)
    except BuildManifestError as error:
        return differences, str(error)
    if (manifest.engine_hash, manifest.manifest_hash) != (release.manifest.engine.hash, release.manifest_hash):
        differences.append("the build manifest is of another engine or manifest")
    return differences + check_build(release.directory, manifest), ""


def _run_facts(release: Release, kind: str) -> RunFacts:
    evidence = read_evidence(release, kind)
    uncovered = find_uncovered(release, kind, evidence.record) if evidence.status == PASSED else []
    return RunFacts(kind, evidence.status, uncovered, evidence.record.get("max_batch_size"))


def _open_alerts(release: Release, sources: GateSources) -> tuple[list[OpenAlert], str]:
    try:
        alerts = open_ledger_alerts(sources.state_dir, release)
        if sources.board is not None:
            alerts += open_board_alerts(sources.board, release)
    except sqlite3.Error as error:
        return [], f"the ledger in {sources.state_dir} can't be read: {error}"
    except BoardError as error:
        return [], str(error)
    return alerts, ""


def _sign_off_facts(release: Release, sources: GateSources) -> SignOffFacts:
    required, min_required = sources.required_sign_offs, sources.min_sign_offs
    try:
        rollback = read_last_rollback(sources.state_dir, ReleaseRef.of(release))
        if sources.board is None:
            return SignOffFacts((), required, min_required, _NO_BOARD.format(required) if required else "", rollback)
        received = fetch_sign_offs(sources.board, release)
    except (sqlite3.Error, OSError) as error:
        unknown = f"whether it was rolled back is not known: {error}" if required else ""
        return SignOffFacts((), required, min_required, unknown)
    except BoardError as error:
        return SignOffFacts((), required, min_required, str(error))
    last = latest(each for each in (rollback, received.rollback) if each is not None)
    return SignOffFacts(received.since(last), required, min_required, rollback=last)
