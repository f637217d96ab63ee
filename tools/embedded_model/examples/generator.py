"""Generates synthetic examples of the three tasks. Equal seeds give equal examples on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable

from embedded_model.examples.example import Example
from embedded_model.examples.generate_json import example_of_spec, generate_json_example, random_spec
from embedded_model.examples.judge import judge_example
from embedded_model.examples.rank_candidates import rank_candidates_example
from embedded_model.examples.value_sampler import ValueSampler
from llm_policy.release.manifest import TASKS

_GENERATORS: dict[str, Callable[[ValueSampler], Example]] = dict(
    zip(TASKS, (generate_json_example, rank_candidates_example, judge_example), strict=True)
)


def generate_example(task: str, sampler: ValueSampler) -> Example:
    """The next example of `task`, in one of the prompt formats of training."""
    return _GENERATORS[task](sampler)


def held_out_examples(
    task: str, seed: int, count: int, num_schemas: int, is_out_of_distribution: bool = False
) -> list[Example]:
    """Examples with held-out values; those of generate_json share `num_schemas` schemas.

    In distribution they have the prompt formats of training. Out of distribution their formats, criteria, domains and
    schemas are held out too.
    """
    # The last word of the seed is part of the recorded evaluation: another text gives other examples.
    seed_text = f"held out {task} {seed} {not is_out_of_distribution}"
    sampler = ValueSampler(random.Random(seed_text), is_held_out=True)  # noqa: S311
    if task == "rank_candidates":
        return [rank_candidates_example(sampler, is_out_of_distribution) for _ in range(count)]
    if task == "judge":
        return [judge_example(sampler, is_out_of_distribution) for _ in range(count)]
    specs = [random_spec(sampler, is_out_of_distribution) for _ in range(num_schemas)]
    return [example_of_spec(specs[number % num_schemas], sampler, is_out_of_distribution) for number in range(count)]
