"""What a release must have shown before it may be promoted. Every gate says all that is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from llm_policy.release.release import Release
from llmstack.release import error_alerts
from llmstack.release.alignment import read_alignments
from llmstack.release.board_client import BoardAccess, BoardError, reviewers
from llmstack.release.build_manifest import MODULE6, BuildManifestError, check_build, read_build_manifest
from llmstack.release.coverage import not_covered
from llmstack.release.evidence import BENCH_GATE, PASSED, SMOKE, WARMUP, read_evidence

MAX_UNPROVEN_BATCH_SIZE = 4


class GateResult(NamedTuple):
    """One gate and what is missing; `is_absolute` when no reason can override it; `reviewers` of the sign-offs."""

    gate: str
    missing: tuple[str, ...]
    is_absolute: bool = False
    reviewers: tuple[str, ...] = ()


class GateInputs(NamedTuple):
    """Where the gates look besides the release itself."""

    against: Sequence[Path]  # the evaluation side's manifests, besides those in the release's `MODULE6`
    board: BoardAccess | None
    num_sign_offs: int
    state_dir: Path
    min_sign_offs: int = 0  # what is configured here


def check_gates(
    release: Release, evidence: GateInputs, on_gate: Callable[[str], None] = lambda gate: None
) -> list[GateResult]:
    """Every gate, the passed ones with nothing missing."""
    gates: dict[str, Callable[[], list[str]]] = {
        "files": lambda: _files(release),
        "build manifest": lambda: _build_manifest(release),
        "alignment": lambda: _alignment(release, evidence.against),
        "warm-up": lambda: _run(release, WARMUP, "llmstack warmup"),
        "smoke": lambda: _run(release, SMOKE, "llmstack smoke"),
        "batch size": lambda: _batch_size(release),
        "alerts": lambda: _alerts(release, evidence),
    }
    findings = []
    for name, gate in gates.items():
        on_gate(name)
        findings.append(GateResult(name, tuple(gate()), is_absolute=name == "files"))
    on_gate("sign-offs")
    return [*findings, _sign_offs(release, evidence)]


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
    evidence = read_evidence(release, kind)
    again = f"{command} --release {release.directory}"
    if evidence.verdict != PASSED:
        return [f"{kind}.json: {evidence.verdict}: {again}"]
    return [f"{kind}.json: nothing of {what}: {again}" for what in not_covered(release, kind, evidence.record)]


def _batch_size(release: Release) -> list[str]:
    size = release.manifest.engine.max_batch_size
    if size <= MAX_UNPROVEN_BATCH_SIZE:
        return []
    evidence = read_evidence(release, BENCH_GATE)
    proven = evidence.record.get("max_batch_size")
    verdict = evidence.verdict
    if verdict == PASSED:
        if isinstance(proven, int) and proven >= size:
            return []
        verdict = f"of batch size {proven}"
    return [
        f"engine.max_batch_size is {size}, above {MAX_UNPROVEN_BATCH_SIZE}, and bench_gate.json is {verdict}: "
        f"llmstack bench gate --max-batch-size {size} --release {release.directory}"
    ]


def _sign_offs(release: Release, evidence: GateInputs) -> GateResult:
    signed, missing = _signed(release, evidence)
    if evidence.num_sign_offs < evidence.min_sign_offs:
        missing.append(f"{evidence.num_sign_offs} signatures asked for, {evidence.min_sign_offs} are configured here")
    return GateResult("sign-offs", tuple(missing), reviewers=tuple(signed))


def _signed(release: Release, evidence: GateInputs) -> tuple[list[str], list[str]]:
    """Who signed, and what is missing."""
    num_required = evidence.num_sign_offs
    if evidence.board is None:
        options = "--board-url (LLMSTACK_BOARD_URL) and --board-token-file (LLMSTACK_BOARD_TOKEN_FILE)"
        return [], [f"{num_required} signatures needed and no board to ask: {options}"] if num_required else []
    try:
        signed = reviewers(evidence.board, release)
    except BoardError as error:
        return [], [str(error)]
    if len(signed) >= num_required:
        return signed, []
    names = f" ({', '.join(signed)})" if signed else ""
    hashes = f"engine {release.manifest.engine.hash} and manifest {release.manifest_hash}"
    return signed, [f"{len(signed)} of {num_required} signatures for {hashes}{names}"]


def _alerts(release: Release, evidence: GateInputs) -> list[str]:
    """Alerts at error level for this engine that are open, here and at every service that tells the board."""
    try:
        told = error_alerts.told_here(evidence.state_dir, release)
        if evidence.board is not None:
            told += error_alerts.told_to_board(evidence.board, release)
    except sqlite3.Error as error:
        return [f"the ledger in {evidence.state_dir} can't be read: {error}"]
    except BoardError as error:
        return [str(error)]
    return [f"{text}: find the cause; it counts for {error_alerts.OPEN_S // 60} min" for text in told]
