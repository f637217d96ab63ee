"""The stack on vLLM beside vLLM alone: the same requests to both, one after the other on the same machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from llm_policy.release.release import Release
from llmstack.bench import vllm_alone
from llmstack.bench.comparison_plan import ComparisonPlan, PlannedPrompts, RowPlan, planned_guide
from llmstack.bench.load import LoadMeasurement, measure_load
from llmstack.bench.served_stack import ServedStack
from llmstack.bench.stream_rows import StreamRow, measure_stream_row
from llmstack.client.ensemble_client import release_headers
from llmstack.server.engine_process import engine_python, lay_out_source

ALONE_LOG_NAME = "alone.log"
_ALONE_MODULES = ("vllm_alone.py", "token_times.py")
_LAST_CHARACTERS = 2_000


class AloneError(RuntimeError):
    """vLLM alone could not be measured; the text is the end of its output."""


def measure_stack_rows(
    stack: ServedStack, release: Release, plan: ComparisonPlan, prompts: PlannedPrompts
) -> Iterator[LoadMeasurement]:
    """Warm up, then measure the plan's rows one by one.

    Raises:
        LoadError: a request got an error.
    """
    headers = release_headers(release)
    for row in plan.warm_ups:
        measure_load(stack.urls, headers, prompts.workload(row))
    for row in plan.rows:
        yield measure_load(stack.urls, headers, prompts.workload(row))


def measure_streams(
    stack: ServedStack, release: Release, plan: ComparisonPlan, prompts: PlannedPrompts
) -> Iterator[StreamRow]:
    """As `measure_stack_rows`, streamed by `ensemble_stream`.

    Raises:
        LoadError: a request got an error.
    """
    headers = release_headers(release)
    for row in plan.warm_ups:
        measure_stream_row(stack.urls, headers, prompts.workload(row._replace(is_streamed=True)))
    for row in plan.rows:
        yield measure_stream_row(stack.urls, headers, prompts.workload(row._replace(is_streamed=True)))


def alone_plan(
    release: Release, plan: ComparisonPlan, prompts: PlannedPrompts, options: Mapping[str, str]
) -> dict[str, Any]:
    """The plan for `vllm_alone`; `options` are the engine's.

    Raises:
        ValueError: the policy rejects the schema.
    """

    def describe(row: RowPlan) -> dict[str, Any]:
        prompt_ids = list(prompts.token_ids(row))
        return {"name": row.name, "guided": row.is_guided, "concurrency": row.concurrency, "prompts": prompt_ids}

    return {
        "release": str(release.directory),
        "max_batch_size": release.manifest.engine.max_batch_size,
        "max_mask_ms": release.manifest.guidance.max_mask_ms,
        "options": dict(options),
        "guide": planned_guide(release, plan.schema_id),
        "max_tokens": plan.completion_tokens,
        "end_id": prompts.end_id,
        "warm_ups": [describe(row) for row in plan.warm_ups],
        "rows": [describe(row) for row in plan.rows],
    }


def measure_alone(plan: Mapping[str, Any], state_dir: Path) -> Iterator[dict[str, Any]]:
    """Run `vllm_alone` in the engine's Python: its start and versions, then its rows, as they come.

    Raises:
        AloneError: it failed.
    """
    path, log_path = state_dir / "alone-plan.json", state_dir / ALONE_LOG_NAME
    state_dir.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(plan))
    source = _lay_out_alone((state_dir / "alone-source").resolve())
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [engine_python(), "-m", vllm_alone.__name__, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(source), "LLMSTACK_STATE_DIR": str(state_dir)},
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                with suppress(json.JSONDecodeError):  # the engine prints lines of its own
                    yield dict(json.loads(line))
        finally:
            if process.poll() is None:
                process.terminate()
    if process.returncode:
        raise AloneError(log_path.read_text("utf-8", "replace")[-_LAST_CHARACTERS:])


def _lay_out_alone(directory: Path) -> Path:
    """The source for the engine's Python, with `vllm_alone` and what it imports, and nothing else of this package."""
    bench = lay_out_source(directory) / "llmstack" / "bench"
    bench.mkdir(parents=True, exist_ok=True)
    for package in (bench.parent, bench):
        (package / "__init__.py").touch()
    for name in _ALONE_MODULES:
        (bench / name).write_bytes(Path(__file__).with_name(name).read_bytes())
    return directory


class ComparisonRecord:
    """The results in one JSON file, written after each of them, so that an interrupted run keeps what it measured."""

    def __init__(self, path: Path, on_result: Callable[[dict[str, Any]], None] = lambda result: None) -> None:
        """Continue the record at `path` if it exists."""
        self._path, self._on_result = path, on_result
        self.content: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {}

    def put(self, **values: Any) -> None:
        """Set entries."""
        self.content.update(values)
        self._write(values)

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Add a row to a part, in place of an earlier one of the same kind."""
        rows = [other for other in self.content.get(part, []) if _key(other) != _key(row)]
        self.content[part] = [*rows, row]
        alone = self.content.get("alone", [])
        self.content["comparison"] = compare(self.content.get("stack", []), alone)
        self.content["streaming_comparison"] = compare_streams(self.content.get("stream", []), alone)
        self._write({part: row})

    def _write(self, result: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(orjson.dumps(self.content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        partial.replace(self._path)
        self._on_result(result)


def compare(stack_rows: list[dict[str, Any]], alone_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind and concurrency that both have.

    `first_token_later_ms` is the engine's time to the first token plus all that a client waits for outside the engine,
    also after the last token, minus vLLM's own time to the first token: an upper bound of what the stack adds.
    """
    alone = {_key(row): row for row in alone_rows}
    return [
        {
            "guided": row["guided"],
            "concurrency": row["concurrency"],
            "tokens_per_s_ratio": round(row["tokens_per_s"] / other["tokens_per_s"], 4),
            "first_token_later_ms": round(row["ttft_ms_p50"] + row["outside_engine_ms_p50"] - other["ttft_ms_p50"], 1),
            "latency_later_ms": round(row["latency_ms_p50"] - other["latency_ms_p50"], 1),
            "policy_share": row["policy_share"],
            "queue_delay_us_p50": row["queue_delay_us_p50"],
            "queue_delay_us_p99": row["queue_delay_us_p99"],
            "queue_delay_us_max": row["queue_delay_us_max"],
        }
        for row in stack_rows
        if (other := alone.get(_key(row)))
    ]


def compare_streams(stream_rows: list[dict[str, Any]], alone_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind and concurrency that both have, as the consumers of both see their tokens.

    `outside_engine_later_ms` is what the stack adds to the first token outside the times that vLLM counts itself, which
    does not depend on when vLLM's steps happen to begin.
    """
    alone = {_key(row): row for row in alone_rows}
    return [
        {
            "guided": row["guided"],
            "concurrency": row["concurrency"],
            "first_token_later_ms": _later_ms(row, other, "ttft_ms_p50"),
            "first_token_outside_engine_ms_p50": row["first_token_outside_engine_ms_p50"],
            "outside_engine_later_ms": _later_ms(row, other, "first_token_outside_engine_ms_p50"),
            "inter_token_ratio": round(row["inter_token_ms_p50"] / other["inter_token_ms_p50"], 4),
            "latency_later_ms": round(row["latency_ms_p50"] - other["latency_ms_p50"], 1),
            "tokens_per_s_ratio": round(row["tokens_per_s"] / other["tokens_per_s"], 4),
        }
        for row in stream_rows
        if (other := alone.get(_key(row))) and other.get("inter_token_ms_p50")
    ]


def _later_ms(row: Mapping[str, Any], alone: Mapping[str, Any], name: str) -> float | None:
    """How much later vLLM's consumer gets it from the stack; None if it was not measured of vLLM alone."""
    return round(row[name] - alone[name], 2) if name in alone else None


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["guided"], row["concurrency"]
