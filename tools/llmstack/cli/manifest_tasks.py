"""The tasks of a manifest, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

OwnTasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        help="NAME or NAME=TEMPERATURE: a task of your own beside the guide's three; greedy without a temperature. "
        "Repeatable.",
    ),
]
TaskSchemas = Annotated[
    list[str] | None,
    typer.Option(
        "--task-schema", help="TASK=SCHEMA: the registered schema (schemas/SCHEMA.json) of a task. Repeatable."
    ),
]
TaskMaxTokens = Annotated[
    list[str] | None,
    typer.Option("--task-max-tokens", help="TASK=N: default completion limit of a task, in tokens. Repeatable."),
]

_TASK_SAMPLING: dict[str, dict[str, Any]] = {
    "generate_json": {"temperature": 0.0},
    "rank_candidates": {"temperature": 0.0},
    "judge": {"temperature": 0.1, "top_p": 0.9},
}


def parse_tasks(
    own: Sequence[str] | None, schemas: Sequence[str] | None, max_tokens: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """The manifest's `tasks`: the guide's and those of `own`, each with its sampling and what the options set.

    Raises:
        typer.BadParameter: a temperature is not a number, or an option is not TASK=VALUE of a known task.
    """
    tasks = {name: dict(sampling) for name, sampling in _TASK_SAMPLING.items()}
    for text in own or ():
        name, _, temperature = text.partition("=")
        try:
            tasks[name] = {"temperature": float(temperature or 0)}
        except ValueError:
            raise typer.BadParameter(f"{text!r}: {temperature!r} is not a number", param_hint="--task") from None
    for text in schemas or ():
        task, schema = _assignment("--task-schema", text, tasks)
        tasks[task]["schema_id"] = schema
    for text in max_tokens or ():
        task, number = _assignment("--task-max-tokens", text, tasks)
        if not number.isdecimal():
            raise typer.BadParameter(f"{text!r}: {number!r} is not a whole number", param_hint="--task-max-tokens")
        tasks[task]["max_tokens"] = int(number)
    return tasks


def _assignment(option: str, text: str, tasks: dict[str, dict[str, Any]]) -> tuple[str, str]:
    task, separator, value = text.partition("=")
    if task not in tasks or not separator or not value:
        raise typer.BadParameter(f"{text!r}: TASK=VALUE is needed, TASK one of {', '.join(tasks)}", param_hint=option)
    return task, value
