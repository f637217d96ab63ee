"""What a release still lacks before `llmstack release promote` lets it pass, as far as the board sees it."""

from __future__ import annotations

from collections.abc import Sequence

from llmstack.board.candidates import Candidate
from llmstack.board.run_record import RunRecord
from llmstack.release.evidence import BENCH_GATE, SMOKE, WARMUP
from llmstack.release.promotion_gates import MAX_UNPROVEN_BATCH_SIZE

_COMMANDS = {WARMUP: "llmstack warmup", SMOKE: "llmstack smoke", BENCH_GATE: "llmstack bench gate"}


def find_missing(
    candidate: Candidate, reviewers: Sequence[str], num_required: int, open_rules: Sequence[str]
) -> list[str]:
    """A line for each thing; the files themselves are proven by `release promote` alone.

    `reviewers` have signed, `open_rules` are rules at error level with an open alert.
    """
    if candidate.problem:
        return ["a manifest that can be read"]
    return [
        *(["the build manifest: llmstack release publish"] if candidate.build is None else []),
        *_alignment(candidate),
        *(_run(run) for run in candidate.runs if needs(candidate, run.kind) and not _is_enough(candidate, run)),
        *_sign_offs(reviewers, num_required),
        *(f"an end to the open alert {rule}" for rule in open_rules),
    ]


def needs(candidate: Candidate, kind: str) -> bool:
    """Whether a promotion asks for this kind of run."""
    return kind != BENCH_GATE or candidate.manifest["engine"]["max_batch_size"] > MAX_UNPROVEN_BATCH_SIZE


def _is_enough(candidate: Candidate, run: RunRecord) -> bool:
    """A bench of a smaller batch proves nothing of this one."""
    size, proven = candidate.manifest["engine"]["max_batch_size"], run.figures.get("max_batch_size")
    return run.is_passed and (run.kind != BENCH_GATE or (isinstance(proven, int) and proven >= size))


def _alignment(candidate: Candidate) -> list[str]:
    if not candidate.alignments:
        return ["a manifest of the evaluation side to compare with"]
    num_different = sum(bool(alignment.differences) for alignment in candidate.alignments)
    return [f"alignment with {num_different} of {len(candidate.alignments)} manifests"] if num_different else []


def _run(run: RunRecord) -> str:
    num_faulty = len(run.faulty_rows)
    faults = f", {num_faulty} of {len(run.rows)} rows" if num_faulty else ""
    lacking = f": nothing of {'; '.join(run.lacking)}" if run.lacking else ""
    return f"{run.kind} ({run.verdict}{faults}{lacking}): {_COMMANDS[run.kind]}"


def _sign_offs(reviewers: Sequence[str], num_required: int) -> list[str]:
    num_missing = num_required - len(reviewers)
    return [f"{num_missing} more of {num_required} signatures"] if num_missing > 0 else []
