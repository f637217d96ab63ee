"""Eval slices that the trained model passes: held-out questions of each task with the right answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from embedded_model.example import Example
from embedded_model.examples import make_example
from embedded_model.filling import REGISTERED_SHAPES, fill_example
from embedded_model.release import QUANTISATION
from embedded_model.words import Words
from llm_policy.release.manifest import TASKS

_MAX_COST_USD = 0.001


def write_slices(directory: Path, seed: int, count: int) -> None:
    """Write `count` slices a task into `directory`, a file each. Equal arguments give equal bytes.

    Raises:
        OSError: `directory` can't be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        words = Words(random.Random(f"slices {task} {seed}"), is_held_out=True)  # noqa: S311
        lines = [_line(task, number, words) for number in range(count)]
        (directory / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def _line(task: str, number: int, words: Words) -> str:
    schema_id, example = _question(task, number, words)
    # Top-level members one by one: a difference then names the member.
    values = {f"/{name.replace('~', '~0').replace('/', '~1')}": value for name, value in example.answer.items()}
    tree: dict[str, Any] = {
        "id": f"{task}-{number:03}",
        "task": task,
        **_prompt(example),
        **({"schema_id": schema_id} if schema_id else {}),
        "seed": number,
        "quantisation": QUANTISATION,
        "expect": {"values": values, "schema_valid": True, "finish_reason": "stop", "max_cost_usd": _MAX_COST_USD},
    }
    return json.dumps(tree, ensure_ascii=False) + "\n"


def _prompt(example: Example) -> dict[str, Any]:
    return {"messages": example.turns()} if example.is_chat else {"text_input": example.user}


def _question(task: str, number: int, words: Words) -> tuple[str, Example]:
    if task != "generate_json":
        return "", make_example(task, words)
    name = sorted(REGISTERED_SHAPES)[number % len(REGISTERED_SHAPES)]
    return name, fill_example(REGISTERED_SHAPES[name], words)
