"""Eval slices for `llmstack smoke`: held-out prompts of each task with their correct answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from embedded_model.examples.example import Example
from embedded_model.examples.generate_json import REGISTERED_SPECS, example_of_spec
from embedded_model.examples.generator import generate_example
from embedded_model.examples.value_sampler import ValueSampler
from embedded_model.release.builder import QUANTISATION
from llm_policy.release.manifest import TASKS

_MAX_COST_USD = 0.001


def write_slices(directory: Path, seed: int, count: int) -> None:
    """Write one file per task with `count` slices to `directory`. Equal arguments give equal bytes.

    Raises:
        OSError: `directory` can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        sampler = ValueSampler(random.Random(f"slices {task} {seed}"), is_held_out=True)  # noqa: S311
        lines = [_slice_line(task, number, sampler) for number in range(count)]
        (directory / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def _slice_line(task: str, number: int, sampler: ValueSampler) -> str:
    schema_id, example = _slice_example(task, number, sampler)
    # One expected value per top-level member, so that a failure names the member.
    values = {f"/{name.replace('~', '~0').replace('/', '~1')}": value for name, value in example.answer.items()}
    tree: dict[str, Any] = {
        "id": f"{task}-{number:03}",
        "task": task,
        **({"messages": example.messages()} if example.is_chat else {"text_input": example.user}),
        **({"schema_id": schema_id} if schema_id else {}),
        "seed": number,
        "quantisation": QUANTISATION,
        "expect": {"values": values, "schema_valid": True, "finish_reason": "stop", "max_cost_usd": _MAX_COST_USD},
    }
    return json.dumps(tree, ensure_ascii=False) + "\n"


def _slice_example(task: str, number: int, sampler: ValueSampler) -> tuple[str, Example]:
    """(schema_id, empty for the task's own schema; the example)."""
    if task != "generate_json":
        return "", generate_example(task, sampler)
    name = sorted(REGISTERED_SPECS)[number % len(REGISTERED_SPECS)]
    return name, example_of_spec(REGISTERED_SPECS[name], sampler)
