"""Examples of rank_candidates: a criterion, candidates with a number each, and their order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from embedded_model.examples.example import Example
from embedded_model.examples.prompt_template import PromptTemplate
from embedded_model.examples.value_sampler import ValueSampler

LETTERS = "ABCDEF"
MIN_CANDIDATES = 3


class Criterion(NamedTuple):
    """What candidates are ranked by: its units, words for its lowest and highest values, the maximum value."""

    name: str
    units: tuple[str, ...]
    lowest: tuple[str, ...]
    highest: tuple[str, ...]
    max_value: int


class Format(NamedTuple):
    """Criteria, questions, the template of the prompt, and the markers of candidates."""

    criteria: tuple[Criterion, ...]
    questions: tuple[str, ...]
    template: PromptTemplate
    markers: tuple[str, ...]


_CRITERIA = (
    Criterion("price", ("{} dollars", "{} euros", "${}"), ("cheapest", "lowest"), ("most expensive", "highest"), 9_999),
    Criterion("weight", ("{} g", "{} kg"), ("lightest", "lowest"), ("heaviest", "highest"), 9_999),
    Criterion("rating", ("{} points", "{} stars"), ("worst", "lowest"), ("best", "highest"), 999),
    Criterion("delivery time", ("{} hours", "{} days"), ("fastest", "shortest"), ("slowest", "longest"), 999),
    Criterion("distance", ("{} km", "{} miles"), ("nearest", "shortest"), ("farthest", "longest"), 9_999),
    Criterion("stock", ("{} in stock", "{} left"), ("least", "fewest"), ("most", "largest"), 999),
    Criterion("age", ("{} years", "{} years old"), ("youngest", "newest"), ("oldest",), 99),
    Criterion("height", ("{} cm", "{} m"), ("lowest", "smallest"), ("tallest", "highest"), 9_999),
    Criterion("speed", ("{} km/h",), ("slowest", "lowest"), ("fastest", "highest"), 999),
    Criterion("length", ("{} pages", "{} mm"), ("shortest",), ("longest",), 9_999),
    Criterion("size", ("{} seats", "{} rooms"), ("smallest",), ("largest", "biggest"), 999),
    Criterion("power", ("{} watts",), ("weakest", "lowest"), ("strongest", "highest"), 9_999),
)
_OUT_OF_DISTRIBUTION_CRITERIA = (
    Criterion("noise", ("{} decibels",), ("quietest",), ("loudest",), 999),
    Criterion("depth", ("{} fathoms",), ("shallowest",), ("deepest",), 999),
    Criterion("salt", ("{} grains",), ("mildest",), ("saltiest",), 999),
)
# {first} and {last} are words for the two ends of the ranking, {order} is ascending or descending.
_QUESTIONS = (
    "Rank by {name}, {first} first",
    "Rank the candidates by {name}, {first} first",
    "Rank these by {name}: {first} first",
    "Please rank them by {name}, {first} first",
    "Order by {name}, {first} first",
    "Order the candidates by {name}: {first} first",
    "Sort by {name}, {first} first",
    "Sort the list by {name} from {first} to {last}",
    "By {name}, from {first} to {last}",
    "Criterion: {name}, {first} first",
    "Put the {first} first. What counts is the {name}",
    "Rank by {name} in {order} order",
    "Sort by {name}, {order}",
)
_OUT_OF_DISTRIBUTION_QUESTIONS = (
    "We look at the {name} alone, and want to hear of the {first} one before all others",
    "Who wins on {name} if the {first} wins",
)
_TEMPLATE = PromptTemplate(
    (
        "Rank the candidates. Answer with JSON only.",
        "Rank the candidates by the criterion.",
        "Order the candidates. Reply only with JSON.",
        "You rank candidates. Answer with JSON.",
        "Sort the list and answer with JSON only.",
        "You are a helpful assistant. Rank the candidates.",
        "State each value and the order, as JSON.",
    ),
    (
        "{question}.\n{candidates}",
        "{question}:\n{candidates}",
        "{question}\n{candidates}",
        "{question}.\n\n{candidates}",
        "{candidates}\n{question}.",
        "{candidates}\n\n{question}.",
        "{question}.\nCandidates:\n{candidates}",
        "Candidates:\n{candidates}\n\n{question}.",
        "Question: {question}.\n{candidates}",
    ),
)
_OUT_OF_DISTRIBUTION_TEMPLATE = PromptTemplate(
    ("Let us hold a contest and write down the outcome.", "The jury needs a table of places."),
    ("<field>\n{candidates}\n</field>\n{question}?", "### {question}\n\n{candidates}\n\n### Places"),
)
_MARKERS = (
    "{}: ", "- {}: ", "* {}: ", "{}. ", "{}) ", "({}) ", "[{}] ", "{} - ", "- {}. ", "Candidate {}: ", "Option {}: ",
)  # fmt: skip
_OUT_OF_DISTRIBUTION_MARKERS = ("<{}> ", "No. {} = ", "| {} | ")
_STATEMENTS = ("{name}, {value}", "{name} ({value})", "{name}: {value}", "{name} - {value}", "{name} with {value}")

IN_DISTRIBUTION = Format(_CRITERIA, _QUESTIONS, _TEMPLATE, _MARKERS)
OUT_OF_DISTRIBUTION = Format(
    _OUT_OF_DISTRIBUTION_CRITERIA,
    _OUT_OF_DISTRIBUTION_QUESTIONS,
    _OUT_OF_DISTRIBUTION_TEMPLATE,
    _OUT_OF_DISTRIBUTION_MARKERS,
)


def rank_candidates_example(sampler: ValueSampler, is_out_of_distribution: bool = False) -> Example:
    """The next example."""
    rng, fmt = sampler.random, OUT_OF_DISTRIBUTION if is_out_of_distribution else IN_DISTRIBUTION
    criterion = rng.choice(fmt.criteria)
    is_ascending = rng.random() < 0.5
    letters = LETTERS[: rng.randint(MIN_CANDIDATES, len(LETTERS))]
    values = _sample_values(letters, criterion, sampler)
    parts = {
        "question": _question(criterion, is_ascending, rng, fmt.questions),
        "candidates": _candidates(values, criterion, sampler, fmt.markers),
    }
    prompt = fmt.template.render(rng, parts)
    answer = {"values": values, "ranking": sorted(letters, key=values.__getitem__, reverse=not is_ascending)}
    return Example("rank_candidates", prompt.system, prompt.user, answer, is_chat=prompt.is_chat)


def _question(criterion: Criterion, is_ascending: bool, rng: random.Random, questions: tuple[str, ...]) -> str:
    ends = (criterion.lowest, criterion.highest) if is_ascending else (criterion.highest, criterion.lowest)
    first, last = map(rng.choice, ends)
    question = questions[0] if rng.random() < 0.25 else rng.choice(questions)
    order = "ascending" if is_ascending else "descending"
    return question.format(name=criterion.name, first=first, last=last, order=order)


def _candidates(values: dict[str, int], criterion: Criterion, sampler: ValueSampler, markers: tuple[str, ...]) -> str:
    rng = sampler.random
    marker = markers[0] if rng.random() < 0.3 else rng.choice(markers)
    unit = rng.choice(criterion.units)
    statement = _STATEMENTS[0] if rng.random() < 0.5 else rng.choice(_STATEMENTS)
    return "\n".join(
        marker.format(letter) + statement.format(name=_candidate_name(sampler), value=unit.format(value))
        for letter, value in values.items()
    )


def _candidate_name(sampler: ValueSampler) -> str:
    sample: Callable[[], str] = sampler.random.choice((sampler.person, sampler.thing, sampler.place))
    return sample()


def _sample_values(letters: str, criterion: Criterion, sampler: ValueSampler) -> dict[str, int]:
    """A distinct number for each letter."""
    max_value = sampler.random.choice((criterion.max_value, min(99, criterion.max_value)))
    values: dict[str, int] = {}
    for letter in letters:
        while (number := sampler.integer(1, max_value)) in values.values():
            pass
        values[letter] = number
    return values
