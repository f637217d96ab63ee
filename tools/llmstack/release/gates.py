"""What a release must have shown before it may be promoted. Every gate says all that is missing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from llm_policy import alerts
from llm_policy.database import FILE_NAME as LEDGER_NAME
from llm_policy.database import open_to_read
from llm_policy.release import Release
from llmstack.release.alignment import read_alignments
from llmstack.release.build_manifest import MODULE6, BuildManifestError, check_build, read_build_manifest
from llmstack.release.evidence import BENCH_GATE, PASSED, SMOKE, WARMUP, read_evidence
from llmstack.release.signed_off import BoardAccess, BoardError, reviewers

MAX_UNPROVEN_BATCH_SIZE = 4
# Rules whose open alert says that a release does not work; the others say that it is busy or dear.
ERROR_RULES = (alerts.ENGINE_UNHEALTHY, alerts.SCHEMA_VIOLATION)


class Finding(NamedTuple):
    """One gate and what is missing; `is_absolute` when no reason can override it."""

    gate: str
    missing: tuple[str, ...]
    is_absolute: bool = False


class Evidence(NamedTuple):
    """Where the gates look besides the release itself."""

    against: Sequence[Path]  # the evaluation side's manifests, besides those in the release's `MODULE6`
    board: BoardAccess | None
    num_sign_offs: int
    state_dir: Path


def check_gates(
    release: Release, evidence: Evidence, on_gate: Callable[[str], None] = lambda gate: None
) -> list[Finding]:
    """Every gate, the passed ones with nothing missing."""
    gates: dict[str, Callable[[], list[str]]] = {
        "files": lambda: _files(release),
        "build manifest": lambda: _build_manifest(release),
        "alignment": lambda: _alignment(release, evidence.against),
        "warm-up": lambda: _run(release, WARMUP, "llmstack warmup"),
        "smoke": lambda: _run(release, SMOKE, "llmstack smoke"),
        "batch size": lambda: _batch_size(release),
        "sign-offs": lambda: _sign_offs(release, evidence.board, evidence.num_sign_offs),
        "alerts": lambda: _alerts(release, evidence.state_dir),
    }
    findings = []
    for name, gate in gates.items():
        on_gate(name)
        findings.append(Finding(name, tuple(gate()), is_absolute=name == "files"))
    return findings


def _files(release: Release) -> list[str]:
    """What the manifests say of files that are there: no reason makes a changed file the one that was proven."""
    findings = release.check_files()
    try:
        manifest = read_build_manifest(release.directory)
    except BuildManifestError:
        return findings
    if (manifest.engine_hash, manifest.manifest_hash) != (release.manifest.engine.hash, release.manifest_hash):
        findings.append("the build manifest is of another engine or manifest")
    return findings + check_build(release.directory, manifest)


def _build_manifest(release: Release) -> list[str]:
    try:
        read_build_manifest(release.directory)
    except BuildManifestError as error:
        return [f"{error}: llmstack release publish {release.directory}"]
    return []


def _alignment(release: Release, against: Sequence[Path]) -> list[str]:
    alignments = read_alignments(release, against)
    if not alignments:
        return [f"no manifest of Module 6: put it into {release.directory / MODULE6}, or name it with --against"]
    return [f"{each.file}: {difference}" for each in alignments for difference in each.differences]


def _run(release: Release, kind: str, command: str) -> list[str]:
    record = read_evidence(release, kind)
    if record.verdict == PASSED:
        return []
    return [f"{kind}.json: {record.verdict}: {command} --release {release.directory}"]


def _batch_size(release: Release) -> list[str]:
    size = release.manifest.engine.max_batch_size
    if size <= MAX_UNPROVEN_BATCH_SIZE:
        return []
    record = read_evidence(release, BENCH_GATE)
    if record.verdict == PASSED and record.figures.get("max_batch_size", 0) >= size:
        return []
    verdict = f"of batch size {record.figures['max_batch_size']}" if record.verdict == PASSED else record.verdict
    return [
        f"engine.max_batch_size is {size}, above {MAX_UNPROVEN_BATCH_SIZE}, and bench_gate.json is {verdict}: "
        f"llmstack bench gate --max-batch-size {size} --release {release.directory}"
    ]


def _sign_offs(release: Release, board: BoardAccess | None, num_required: int) -> list[str]:
    if not num_required:
        return []
    if board is None:
        return [
            f"{num_required} signatures needed and no board to ask: --board-url (LLMSTACK_BOARD_URL) and "
            "--board-token-file (LLMSTACK_BOARD_TOKEN_FILE)"
        ]
    try:
        signed = reviewers(board, release)
    except BoardError as error:
        return [str(error)]
    if len(signed) >= num_required:
        return []
    names = f" ({', '.join(signed)})" if signed else ""
    return [
        f"{len(signed)} of {num_required} signatures for engine {release.manifest.engine.hash} and manifest "
        f"{release.manifest_hash}{names}"
    ]


def _alerts(release: Release, state_dir: Path) -> list[str]:
    """Windows of an error rule for this engine that have not ended."""
    path = state_dir / LEDGER_NAME
    if not path.exists():
        return []
    try:
        with closing(open_to_read(path)) as connection:
            windows = connection.execute(
                "SELECT rule, started_ns FROM alert_window WHERE engine_hash = ?", (release.manifest.engine.hash,)
            ).fetchall()
    except sqlite3.Error as error:
        return [f"{path} can't be read: {error}"]
    now_ns = time.time_ns()
    return [
        f"{rule} since {(now_ns - started_ns) / 1e9:.0f} s: wait until its window of 60 s has ended without another"
        for rule, started_ns in windows
        if rule in ERROR_RULES and now_ns - started_ns < alerts.WINDOW_NS
    ]
