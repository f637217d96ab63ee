"""The exercises of one client: read what to ask from stdin, run each, and write the results to stdout as JSON.

A client's script runs in an environment of its own, so it shares no process with the tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Prompt(NamedTuple):
    """A prompt in two messages."""

    system: str
    user: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages in OpenAI's form."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]


class Target(NamedTuple):
    """The server that a client talks to. `prompts` has one for each task of the embedded model."""

    base_url: str
    headers: dict[str, str]
    model: str
    prompts: dict[str, Prompt]

    @property
    def order(self) -> Prompt:
        """The prompt of the task that fills a schema with an order."""
        return self.prompts["generate_json"]

    @property
    def claim(self) -> Prompt:
        """The prompt of the task that judges a claim."""
        return self.prompts["judge"]


Exercise = Callable[[Target], Any]


def run_exercises(exercises: Mapping[str, Exercise]) -> None:
    """Run each exercise; an exception becomes its result."""
    given = json.load(sys.stdin)
    prompts = {task: Prompt(*texts) for task, texts in given.pop("prompts").items()}
    target = Target(prompts=prompts, **given)
    results = {name: _result(exercise, target) for name, exercise in exercises.items()}
    json.dump(results, sys.stdout)


def _result(exercise: Exercise, target: Target) -> Any:
    try:
        return exercise(target)
    except Exception as error:
        return {"raised": type(error).__name__, "code": _code(error), "text": str(error)[:2_000]}


def _code(error: BaseException | None) -> str:
    """The code of the API's error; clients wrap the one of the official SDK."""
    while error is not None:
        if code := getattr(error, "code", None) or (getattr(error, "body", None) or {}).get("code"):
            return str(code)
        error = error.__cause__ or error.__context__
    return ""
