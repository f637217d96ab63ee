"""The gates that a release passes before its promotion. The command line and the board apply the same rules.

Each gate reports all that is missing, in two forms: `missing` with every detail, for the command line, and `summary`
with one line per run, rule or manifest set, for the board, whose pages show the details.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llm_policy.release.release import Release
from llmstack.release.build_manifest import MODULE6
from llmstack.release.defaults import NUM_SIGN_OFFS as NUM_SIGN_OFFS
from llmstack.release.error_alerts import ALERT_WINDOW_S
from llmstack.release.evidence import BENCH_GATE, PASSED, SMOKE, WARMUP
from llmstack.release.gate_facts import GateFacts, GateSources, RunFacts, gather_facts

# A larger batch size needs a bench gate, which checks the queue delay.
MAX_BATCH_SIZE_WITHOUT_BENCH = 4
_COMMANDS = {WARMUP: "llmstack warmup", SMOKE: "llmstack smoke", BENCH_GATE: "llmstack bench gate"}
_INCOMPLETE = "incomplete"


class GateResult(NamedTuple):
    """One gate; it has passed when nothing is missing. `is_absolute`: no override passes it."""

    gate: str
    missing: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    is_absolute: bool = False
    reviewers: tuple[str, ...] = ()  # of the sign-offs


def check_gates(
    release: Release, sources: GateSources, on_step: Callable[[str], None] = lambda step: None
) -> list[GateResult]:
    """Gather the facts of a release and apply every gate; `on_step` receives what is read next."""
    return apply_gates(gather_facts(release, sources, on_step))


def apply_gates(facts: GateFacts) -> list[GateResult]:
    """The result of every gate."""
    runs = {run.kind: run for run in facts.runs}
    differences = tuple(facts.file_differences)
    return [
        GateResult("files", differences, differences, is_absolute=True),
        _build_manifest(facts),
        _alignment(facts),
        _run("warm-up", facts, runs[WARMUP]),
        _run("smoke", facts, runs[SMOKE]),
        _batch_size(facts, runs[BENCH_GATE]),
        _alerts(facts),
        _sign_offs(facts),
    ]


def needs_run(kind: str, max_batch_size: int) -> bool:
    """Whether a release with this batch size needs this kind of run."""
    return kind != BENCH_GATE or max_batch_size > MAX_BATCH_SIZE_WITHOUT_BENCH


def _build_manifest(facts: GateFacts) -> GateResult:
    if not facts.build_manifest_error:
        return GateResult("build manifest")
    missing = f"{facts.build_manifest_error}: llmstack release publish {facts.release}"
    return GateResult("build manifest", (missing,), ("the build manifest: llmstack release publish",))


def _alignment(facts: GateFacts) -> GateResult:
    if not facts.alignments:
        missing = (
            f"no manifest of the evaluation side: put the one that the evaluation of this release wrote into "
            f"{facts.release}/{MODULE6}/, or name it with --against"
        )
        return GateResult("alignment", (missing,), ("a manifest of the evaluation side to compare with",))
    different = [alignment for alignment in facts.alignments if alignment.differences]
    if not different:
        return GateResult("alignment")
    missing_lines = (f"{each.file}: {difference}" for each in different for difference in each.differences)
    return GateResult(
        "alignment",
        tuple(missing_lines),
        (f"alignment with {len(different)} of {len(facts.alignments)} manifests",),
    )


def _run(gate: str, facts: GateFacts, run: RunFacts) -> GateResult:
    command = f"{_COMMANDS[run.kind]} --release {facts.release}"
    if run.status != PASSED:
        missing = [f"{run.kind}.json: {run.status}: {command}"]
    else:
        missing = [f"{run.kind}.json: nothing of {part}: {command}" for part in run.uncovered]
    return GateResult(gate, tuple(missing), _run_summary(run) if missing else ())


def _batch_size(facts: GateFacts, bench: RunFacts) -> GateResult:
    size, benched = facts.max_batch_size, bench.max_batch_size
    if not needs_run(BENCH_GATE, size):
        return GateResult("batch size")
    status = bench.status
    if status == PASSED:
        if isinstance(benched, int) and benched >= size:
            return GateResult("batch size")
        status = f"of batch size {benched}"
    missing = (
        f"engine.max_batch_size is {size}, above {MAX_BATCH_SIZE_WITHOUT_BENCH}, and bench_gate.json is {status}: "
        f"llmstack bench gate --max-batch-size {size} --release {facts.release}"
    )
    return GateResult("batch size", (missing,), _run_summary(bench))


def _run_summary(run: RunFacts) -> tuple[str]:
    status = _INCOMPLETE if run.uncovered else run.status
    rows = f", {run.num_failed_rows} of {run.num_rows} rows" if run.num_failed_rows else ""
    uncovered = f": nothing of {'; '.join(run.uncovered)}" if run.uncovered else ""
    return (f"{run.kind} ({status}{rows}{uncovered}): {_COMMANDS[run.kind]}",)


def _alerts(facts: GateFacts) -> GateResult:
    if facts.alerts_error:
        return GateResult("alerts", (facts.alerts_error,), (facts.alerts_error,))
    missing = (f"{alert.text}: find the cause; it counts for {ALERT_WINDOW_S // 60} min" for alert in facts.alerts)
    rules = dict.fromkeys(alert.rule for alert in facts.alerts)
    return GateResult("alerts", tuple(missing), tuple(f"an end to the open alert {rule}" for rule in rules))


def _sign_offs(facts: GateFacts) -> GateResult:
    reviewers, required, min_required, error, rollback = facts.sign_offs
    missing, summary = [], []
    if error:
        missing, summary = [error], [error]
    elif len(reviewers) < required:
        names = f" ({', '.join(reviewers)})" if reviewers else ""
        hashes = f"engine {facts.engine_hash} and manifest {facts.manifest_hash}"
        since = f", given after it was {rollback.text}" if rollback else ""
        missing = [f"{len(reviewers)} of {required} sign-offs for {hashes}{names}{since}"]
        renewed = ", since it was rolled back" if rollback else ""
        summary = [f"{required - len(reviewers)} more of {required} sign-offs{renewed}"]
    if required < min_required:
        too_few = f"{required} sign-offs required, {min_required} are configured here"
        missing, summary = [*missing, too_few], [*summary, too_few]
    return GateResult("sign-offs", tuple(missing), tuple(summary), reviewers=tuple(reviewers))
