"""Examples of rank_candidates: a criterion, candidates that each state a number, and their order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from embedded_model.example import Example
from embedded_model.wording import Wording
from embedded_model.words import Words

LETTERS = "ABCDEF"
FEWEST_CANDIDATES = 3


class Criterion(NamedTuple):
    """What candidates are compared by: how each states it, words for the least and for the most of it, the most."""

    name: str
    units: tuple[str, ...]
    least: tuple[str, ...]
    most: tuple[str, ...]
    limit: int


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
_UNFAMILIAR_CRITERIA = (
    Criterion("noise", ("{} decibels",), ("quietest",), ("loudest",), 999),
    Criterion("depth", ("{} fathoms",), ("shallowest",), ("deepest",), 999),
    Criterion("salt", ("{} grains",), ("mildest",), ("saltiest",), 999),
)
# {first} and {last} are words for both ends of the order, {order} is its direction.
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
_UNFAMILIAR_QUESTIONS = (
    "We look at the {name} alone, and want to hear of the {first} one before all others",
    "Who wins on {name} if the {first} wins",
)
_WORDING = Wording(
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
_UNFAMILIAR = Wording(
    ("Let us hold a contest and write down the outcome.", "The jury needs a table of places."),
    ("<field>\n{candidates}\n</field>\n{question}?", "### {question}\n\n{candidates}\n\n### Places"),
)
_MARKERS = (
    "{}: ", "- {}: ", "* {}: ", "{}. ", "{}) ", "({}) ", "[{}] ", "{} - ", "- {}. ", "Candidate {}: ", "Option {}: ",
)  # fmt: skip
_UNFAMILIAR_MARKERS = ("<{}> ", "No. {} = ", "| {} | ")
_STATEMENTS = ("{name}, {value}", "{name} ({value})", "{name}: {value}", "{name} - {value}", "{name} with {value}")


def ranking_example(words: Words, is_familiar: bool = True) -> Example:
    """The next example."""
    choose = words.random
    criterion = choose.choice(_CRITERIA if is_familiar else _UNFAMILIAR_CRITERIA)
    is_rising = choose.random() < 0.5
    letters = LETTERS[: choose.randint(FEWEST_CANDIDATES, len(LETTERS))]
    values = _values(letters, criterion, words)
    parts = {
        "question": _question(criterion, is_rising, choose, _QUESTIONS if is_familiar else _UNFAMILIAR_QUESTIONS),
        "candidates": _candidates(values, criterion, words, _MARKERS if is_familiar else _UNFAMILIAR_MARKERS),
    }
    prompt = (_WORDING if is_familiar else _UNFAMILIAR).prompt(choose, parts)
    answer = {"values": values, "ranking": sorted(letters, key=values.__getitem__, reverse=not is_rising)}
    return Example("rank_candidates", prompt.system, prompt.user, answer, is_chat=prompt.is_chat)


def _question(criterion: Criterion, is_rising: bool, choose: random.Random, questions: tuple[str, ...]) -> str:
    ends = (criterion.least, criterion.most) if is_rising else (criterion.most, criterion.least)
    first, last = map(choose.choice, ends)
    question = questions[0] if choose.random() < 0.25 else choose.choice(questions)
    return question.format(
        name=criterion.name, first=first, last=last, order="ascending" if is_rising else "descending"
    )


def _candidates(values: dict[str, int], criterion: Criterion, words: Words, markers: tuple[str, ...]) -> str:
    choose = words.random
    marker = markers[0] if choose.random() < 0.3 else choose.choice(markers)
    unit = choose.choice(criterion.units)
    statement = _STATEMENTS[0] if choose.random() < 0.5 else choose.choice(_STATEMENTS)
    return "\n".join(
        marker.format(letter) + statement.format(name=_candidate(words), value=unit.format(value))
        for letter, value in values.items()
    )


def _candidate(words: Words) -> str:
    draw: Callable[[], str] = words.random.choice((words.person, words.thing, words.place))
    return draw()


def _values(letters: str, criterion: Criterion, words: Words) -> dict[str, int]:
    """A number for each letter, no two alike."""
    limit = words.random.choice((criterion.limit, min(99, criterion.limit)))
    values: dict[str, int] = {}
    for letter in letters:
        while (number := words.number(1, limit)) in values.values():
            pass
        values[letter] = number
    return values
