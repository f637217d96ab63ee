"""Synthetic examples of the three tasks. Those of one seed are the same on every machine.

Everything that an answer holds stands in the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from embedded_model.example import Example
from embedded_model.filling import choose_shape, fill_example, filling_example
from embedded_model.judging import judging_example
from embedded_model.ranking import ranking_example
from embedded_model.words import Words
from llm_policy.release.manifest import TASKS

_MAKERS: dict[str, Callable[[Words], Example]] = dict(
    zip(TASKS, (filling_example, ranking_example, judging_example), strict=True)
)


def make_example(task: str, words: Words) -> Example:
    """The next example of `task`, in one of the forms that training shows."""
    return _MAKERS[task](words)


def held_out_examples(task: str, seed: int, count: int, num_schemas: int, is_familiar: bool = True) -> list[Example]:
    """Examples whose values training never shows; those of generate_json share `num_schemas` schemas.

    The familiar ones are asked in the forms of training, the others in wordings, layouts, criteria and of schemas that
    training never shows either.
    """
    words = Words(random.Random(f"held out {task} {seed} {is_familiar}"), is_held_out=True)  # noqa: S311
    if task == "rank_candidates":
        return [ranking_example(words, is_familiar) for _ in range(count)]
    if task == "judge":
        return [judging_example(words, is_familiar) for _ in range(count)]
    shapes = [choose_shape(words, is_familiar) for _ in range(num_schemas)]
    return [fill_example(shapes[number % num_schemas], words, is_familiar) for number in range(count)]
