"""How well the planned guides hold over a directory of schemas with judged instances.

Reads MaskBench-format files: `{"schema": …, "tests": [{"valid": bool, "data": …}]}`. Every schema is planned, compiled
for a real vocabulary on one thread with an empty cache, and asked about each instance; all of it in a child process
that is killed when one schema takes too long, so nothing can hang the bench.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from llmstack.guides.instance_order import follows_declaration
from llmstack.tokenizer import qwen_vocabulary

SCHEMA_SECONDS = 30.0
"""Wall clock that one schema may take in the child, all its instances included."""
START_SECONDS = 120.0
"""Wall clock that the child may take to load the vocabulary."""
PERCENTILES = (50, 90, 99)


@dataclass
class InstanceVerdict:
    """One instance of one schema."""

    valid: bool
    """What the file says."""
    judged_valid: bool
    """What the policy's validator says."""
    accepted: bool
    """Whether the compiled grammar takes its compact text to the end."""
    in_order: bool
    """No undeclared property, and the declared ones in the schema's order."""


@dataclass
class SchemaResult:
    """What became of one schema under one way of guiding."""

    name: str
    refusal: str = ""
    """Code of the refusal (`timeout` and `crash` are the bench's own); empty when accepted."""
    plan_ms: float = 0.0
    compile_ms: float = 0.0
    """Processor time, as is plan_ms, so that a busy machine changes little."""
    mask_ms: list[float] = field(default_factory=list)
    """Time of a token mask at each of the first characters of the longest valid instance: what a decode step waits."""
    grammar_bytes: int = 0
    unenforced: list[str] = field(default_factory=list)
    instances: list[InstanceVerdict] = field(default_factory=list)


def run_bench(
    schemas_dir: Path, tokenizer_dir: Path, baseline: bool = False, *, console: Console | None = None
) -> dict[str, Any]:
    """Bench every `*.json` of the directory; `baseline` adds XGrammar's own JSON-schema converter.

    Returns a report that json can write: `planned`, and with `baseline` also `baseline`, each as `summarise` makes it.
    """
    paths = sorted(schemas_dir.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no schema files in {schemas_dir}")
    tokenizer = qwen_vocabulary.build_tokenizer(tokenizer_dir)
    console = console or Console()
    report: dict[str, Any] = {}
    for way in ("planned", "baseline") if baseline else ("planned",):
        results = list(_run_way(way, paths, tokenizer, console))
        report[way] = summarise(results)
    console.print(report_table(report))
    return report


def _run_way(way: str, paths: list[Path], tokenizer: Path, console: Console) -> Iterator[SchemaResult]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, _Child(tokenizer) as child:
        for path in progress.track(paths, description=f"{way:>8}"):
            yield child.ask(way, path)


class _Child:
    """A process that answers one schema at a time, replaced when it overruns or dies."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._context = multiprocessing.get_context("spawn")
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, way: str, path: Path) -> SchemaResult:
        """The result of one schema; a refusal `timeout` or `crash` when the child did not answer."""
        pipe = self._pipe if self._pipe is not None else self._start()
        pipe.send((way, str(path)))
        try:
            if pipe.poll(SCHEMA_SECONDS):
                answer: SchemaResult = pipe.recv()
                return answer
            refusal = "timeout"
        except (EOFError, ConnectionError):
            refusal = "crash"
        self._stop()
        return SchemaResult(path.stem, refusal)

    def _start(self) -> Connection[Any, Any]:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, str(self._tokenizer)), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError(f"the bench's child process did not start within {START_SECONDS} s")
        return self._pipe

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


# In the child


def _serve(pipe: Connection[Any, Any], tokenizer: str) -> None:
    from .grammar_trial import GrammarTrial

    trial = GrammarTrial(Path(tokenizer))
    pipe.send("ready")
    while True:
        try:
            way, path = pipe.recv()
        except EOFError:
            return
        pipe.send(try_schema(trial, way, Path(path)))


def try_schema(trial: Any, way: str, path: Path) -> SchemaResult:
    """Plan, compile and question one schema."""
    from llm_policy.errors import PolicyError
    from llm_policy.guidance.plan.planner import plan_json_schema
    from llm_policy.release.guide_limits import GuideLimits

    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(content["schema"], ensure_ascii=False)
    result = SchemaResult(path.stem)
    start = time.process_time()
    try:
        if way == "planned":
            plan = plan_json_schema(text, GuideLimits())
            result.unenforced = [f"{item.keyword}: {item.reason}" for item in plan.unenforced]
            result.grammar_bytes = plan.num_bytes
            grammar = plan.guide
        result.plan_ms = 1000 * (time.process_time() - start)
        start = time.process_time()
        compiled = trial.compile_ebnf(grammar) if way == "planned" else trial.compile_json_schema(text)
        result.compile_ms = 1000 * (time.process_time() - start)
    except PolicyError as error:
        result.refusal = error.code.value
        return result
    except RuntimeError:
        result.refusal = "compile_error"
        return result
    result.instances = _verdicts(trial, compiled, content)
    texts = [_compact(test["data"]) for test in content["tests"] if test["valid"]]
    result.mask_ms = trial.mask_ms(compiled, max(texts, key=len)) if texts else []
    return result


def _compact(instance: Any) -> str:
    return json.dumps(instance, ensure_ascii=False, separators=(",", ":"))


def _verdicts(trial: Any, compiled: Any, content: dict[str, Any]) -> list[InstanceVerdict]:
    from llm_policy.guidance.json_schema.schema_validator import build_schema_validator

    schema = content["schema"]
    judge = build_schema_validator(schema)
    return [
        InstanceVerdict(
            valid=test["valid"],
            judged_valid=judge.validator.is_valid(test["data"]),
            accepted=trial.accepts(compiled, _compact(test["data"])),
            in_order=follows_declaration(schema, test["data"]),
        )
        for test in content["tests"]
    ]


# Figures


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 (nearest rank) and max, rounded to 0.01."""
    ordered = sorted(values) or [0.0]
    ranks = {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] for p in PERCENTILES}
    return {name: round(value, 2) for name, value in {**ranks, "max": ordered[-1]}.items()}


def _rate(hits: int, total: int) -> float:
    return round(hits / total, 5) if total else 0.0


def summarise(results: list[SchemaResult]) -> dict[str, Any]:
    """The figures of one way of guiding. Rates are fractions of the instances of accepted schemas."""
    accepted = [result for result in results if not result.refusal]
    instances = [instance for result in accepted for instance in result.instances]
    invalid = [i for i in instances if not i.valid]
    valid = [i for i in instances if i.valid]
    in_order = [i for i in valid if i.in_order]
    return {
        "schemas": len(results),
        "accepted": len(accepted),
        "refused": dict(Counter(result.refusal for result in results if result.refusal)),
        "plan_ms": percentiles([result.plan_ms for result in accepted]),
        "compile_ms": percentiles([result.compile_ms for result in accepted]),
        "mask_ms": percentiles([value for result in accepted for value in result.mask_ms]),
        "grammar_bytes": percentiles([result.grammar_bytes for result in accepted]),
        "num_invalid": len(invalid),
        "num_valid": len(valid),
        "num_valid_in_order": len(in_order),
        "false_accept_rate": _rate(sum(i.accepted for i in invalid), len(invalid)),
        "false_reject_rate": _rate(sum(not i.accepted for i in in_order), len(in_order)),
        "false_reject_rate_all": _rate(sum(not i.accepted for i in valid), len(valid)),
        "valid_flag_errors": sum(i.judged_valid and not i.valid for i in instances),
        "invalid_flag_errors": sum(i.valid and not i.judged_valid for i in instances),
        "unenforced_schemas": sum(bool(result.unenforced) for result in accepted),
        "unenforced": dict(Counter(word for result in accepted for word in result.unenforced).most_common()),
        "details": [_detail(result) for result in results if _is_notable(result)],
    }


def _is_notable(result: SchemaResult) -> bool:
    wrong = any(i.accepted != i.valid for i in result.instances)
    return bool(result.refusal) or wrong or result.compile_ms > 500 or max(result.mask_ms, default=0) > 20


def _detail(result: SchemaResult) -> dict[str, Any]:
    detail = asdict(result)
    detail["mask_ms"] = percentiles(result.mask_ms)
    detail["instances"] = [{"index": n, **asdict(i)} for n, i in enumerate(result.instances) if i.accepted != i.valid]
    return detail


def report_table(report: dict[str, Any]) -> Table:
    """The report as a table, one column for each way of guiding."""
    table = Table(title="Guides")
    table.add_column("figure")
    for way in report:
        table.add_column(way, justify="right")
    for figure in next(iter(report.values())):
        if figure not in ("details", "unenforced"):
            table.add_row(figure, *(_cell(report[way][figure]) for way in report))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {number}" for name, number in value.items()) or "-"
    return f"{100 * value:.2f} %" if isinstance(value, float) else str(value)
