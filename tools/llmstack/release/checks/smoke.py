"""The smoke run: sends eval slices to a live server and checks the answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from llm_policy.release.release import Release
from llmstack.client.ensemble_client import Reply, send_infer
from llmstack.release.checks.json_pointer import PointerError, resolve
from llmstack.release.checks.slice_file import Expectations, Slice
from llmstack.release.checks.target import Target

# A slice for another engine is refused: it is not sent.
PASSED, FAILED, REFUSED = "passed", "failed", "refused"
_NOTHING = object()


class SliceResult(NamedTuple):
    """The result of one slice; `status` is PASSED, FAILED or REFUSED, and `faults` has the reasons."""

    group: str
    id: str
    status: str
    faults: tuple[str, ...] = ()
    seconds: float = 0.0
    cost_usd: float = 0.0
    num_output_tokens: int = 0
    queue_delay_us: int = 0
    task: str | None = None

    def to_record(self) -> dict[str, Any]:
        """The slice's row in smoke.json, whose key for the status is `verdict`."""
        return {"verdict" if name == "status" else name: value for name, value in self._asdict().items()}


def run_slices(
    target: Target, slices: dict[str, list[Slice]], num_workers: int, on_result: Callable[[SliceResult], None]
) -> list[SliceResult]:
    """Send every slice for the target's engine, with `num_workers` requests in flight; results in the slices' order."""

    def run(pair: tuple[str, Slice]) -> SliceResult:
        result = _run(target, *pair)
        on_result(result)
        return result

    with ThreadPoolExecutor(num_workers) as workers:
        return list(workers.map(run, ((group, each) for group, members in slices.items() for each in members)))


def find_mismatches(release: Release, each: Slice) -> list[str]:
    """Why a slice is not for the release's engine; empty when it is."""
    engine = release.manifest.engine
    pairs = {"engine_hash": (each.engine_hash, engine.hash), "quantisation": (each.quantisation, engine.quantisation)}
    return [f"is for {name} {named}, not {ours}" for name, (named, ours) in pairs.items() if named not in (None, ours)]


def find_faults(expect: Expectations, reply: Reply) -> list[str]:
    """Every difference between an answer and what the slice expects."""
    if reply.error:
        return [f"rejected: {reply.error}"]
    faults = [
        f"{name} is {reply.first(name)!r}, expected {wanted!r}"
        for name, wanted in {"schema_valid": expect.schema_valid, "finish_reason": expect.finish_reason}.items()
        if wanted is not None and reply.first(name) != wanted
    ]
    limits = {
        "cost_usd": expect.max_cost_usd,
        "num_input_tokens": expect.max_input_tokens,
        "num_output_tokens": expect.max_output_tokens,
        "queue_delay_us": expect.max_queue_delay_us,
    }
    for name, limit in limits.items():
        if limit is not None and (reply.first(name) is None or reply.first(name) > limit):
            faults.append(f"{name} is {reply.first(name)}, at most {limit} expected")
    return faults + _find_value_faults(expect.values, str(reply.first("text_output")))


def _run(target: Target, group: str, each: Slice) -> SliceResult:
    if mismatches := find_mismatches(target.release, each):
        return SliceResult(group, each.id, REFUSED, tuple(mismatches), task=each.task)
    began = time.perf_counter()
    reply = send_infer(target.server, _inputs(each), target.headers)
    seconds = round(time.perf_counter() - began, 4)
    faults = find_faults(each.expect, reply)
    if not reply.error and reply.first("engine_hash") != target.release.manifest.engine.hash:
        faults.append(f"engine_hash is {reply.first('engine_hash')}")
    return SliceResult(
        group,
        each.id,
        FAILED if faults else PASSED,
        tuple(faults),
        seconds,
        reply.first("cost_usd") or 0.0,
        reply.first("num_output_tokens") or 0,
        reply.first("queue_delay_us") or 0,
        each.task,
    )


def _inputs(each: Slice) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "messages": None if each.messages is None else json.dumps(each.messages, ensure_ascii=False),
        "text_input": each.text_input,
        "task": each.task,
        "schema_id": each.schema_id,
        "max_tokens": each.max_tokens,
        "seed": each.seed,
    }
    return {name: value for name, value in inputs.items() if value is not None}


def _find_value_faults(values: dict[str, Any], text: str) -> list[str]:
    if not values:
        return []
    try:
        answer = json.loads(text)
    except ValueError:
        return ["text_output is not JSON"]
    faults = []
    for pointer, wanted in values.items():
        found = _value_at(answer, pointer)
        if found is _NOTHING:
            faults.append(f"nothing at {pointer}, expected {json.dumps(wanted)}")
        elif not _is_equal(found, wanted):
            faults.append(f"{pointer} is {json.dumps(found)}, expected {json.dumps(wanted)}")
    return faults


def _value_at(answer: Any, pointer: str) -> Any:
    try:
        return resolve(answer, pointer)
    except PointerError:
        return _NOTHING


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal as JSON, where 1 equals 1.0 and true differs from 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other)
