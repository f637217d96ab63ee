"""What a release still lacks for its promotion, as far as the board knows it."""

from __future__ import annotations

from collections.abc import Sequence

from llmstack.board.candidates import Candidate
from llmstack.board.run_record import INCOMPLETE, RunRecord
from llmstack.release.error_alerts import OpenAlert
from llmstack.release.evidence import PASSED
from llmstack.release.gate_facts import GateFacts, RunFacts, SignOffFacts
from llmstack.release.last_rollback import Rollback
from llmstack.release.promotion_gates import apply_gates, needs_run


def find_missing(
    candidate: Candidate,
    reviewers: Sequence[str],
    num_required: int,
    open_rules: Sequence[str],
    rollback: Rollback | None = None,
) -> list[str]:
    """One line for each thing missing. Only `llmstack release promote` hashes the release's files.

    `reviewers` have signed, after `rollback` if there was one; `open_rules` are the rules at error level with an open
    alert.
    """
    if candidate.problem:
        return ["a manifest that can be read"]
    engine_hash, manifest_hash = candidate.hashes
    facts = GateFacts(
        release=candidate.name,
        engine_hash=engine_hash,
        manifest_hash=manifest_hash,
        max_batch_size=_max_batch_size(candidate),
        build_manifest_error=candidate.build_problem,
        alignments=candidate.alignments,
        runs=[_run_facts(run) for run in candidate.runs],
        sign_offs=SignOffFacts(reviewers, num_required, rollback=rollback),
        alerts=[OpenAlert(rule, rule) for rule in open_rules],
    )
    return [line for result in apply_gates(facts) for line in result.summary]


def needs(candidate: Candidate, kind: str) -> bool:
    """Whether the release's promotion needs this kind of run."""
    return needs_run(kind, _max_batch_size(candidate))


def _max_batch_size(candidate: Candidate) -> int:
    return int(candidate.manifest["engine"]["max_batch_size"])


def _run_facts(run: RunRecord) -> RunFacts:
    return RunFacts(
        run.kind,
        PASSED if run.status == INCOMPLETE else run.status,  # `uncovered` says why it is incomplete
        run.lacking,
        run.results.get("max_batch_size"),
        len(run.rows),
        len(run.faulty_rows),
    )
