"""Synthetic examples of the three tasks: what a client sends, and the one right answer.

Examples of one seed are the same on every machine. Everything that an answer holds stands in the prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from llm_policy.manifest import TASKS
from llmstack.embedded.domains import DOMAINS, Domain, Value
from llmstack.embedded.words import Words

MAX_FIELDS = 6
MAX_LENGTH = 32  # characters of a text in a schema that bounds it
LETTERS = "ABCDEF"


class Example(NamedTuple):
    """One prompt with its answer. Without `schema` the task's registered one applies."""

    task: str
    system: str
    user: str
    answer: dict[str, Any]
    schema: dict[str, Any] | None = None

    @property
    def answer_text(self) -> str:
        """The answer as guided decoding writes it: JSON without spaces, members in the schema's order."""
        return json.dumps(self.answer, ensure_ascii=False, separators=(",", ":"))

    def messages(self) -> str:
        """The prompt as the ensemble's `messages`."""
        turns = [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]
        return json.dumps(turns, ensure_ascii=False)


def make_example(task: str, words: Words) -> Example:
    """The next example of `task`."""
    return _MAKERS[task](words)


def held_out_examples(task: str, seed: int, count: int, num_schemas: int) -> list[Example]:
    """Examples whose values training never shows; those of generate_json share `num_schemas` schemas."""
    words = Words(random.Random(f"held out {task} {seed}"), is_held_out=True)  # noqa: S311
    if task != "generate_json":
        return [make_example(task, words) for _ in range(count)]
    shapes = [choose_shape(words.random) for _ in range(num_schemas)]
    return [fill_example(shapes[number % num_schemas], words) for number in range(count)]


# generate_json


class Shape(NamedTuple):
    """What one generate_json example asks for: fields of a domain in order.

    Those in `nullable` may be missing in the text; the length of those in `bounded` has a limit.
    """

    domain: Domain
    fields: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    bounded: frozenset[str] = frozenset()

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema that the client sends."""
        return object_schema({name: self._field_schema(name) for name in self.fields})

    def _field_schema(self, name: str) -> dict[str, Any]:
        schema = self.domain.fields[name].schema
        if name in self.nullable:
            schema = {"type": ["string", "null"]}
        return schema if name not in self.bounded else schema | {"maxLength": MAX_LENGTH}


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these members."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


REGISTERED_SHAPES = {
    "order": Shape(
        DOMAINS[0],
        ("order_id", "customer", "product", "quantity", "status", "gift"),
        bounded=frozenset(("customer", "product")),
    ),
    "ticket": Shape(
        DOMAINS[1],
        ("ticket_id", "reporter", "component", "severity", "num_users"),
        bounded=frozenset(("reporter", "component")),
    ),
    "invoice": Shape(
        DOMAINS[3],
        ("invoice_id", "supplier", "total", "currency", "due_on", "paid"),
        bounded=frozenset(("supplier",)),
    ),
}


def choose_shape(generator: random.Random) -> Shape:
    """A registered shape now and then, else any fields of any domain in any order."""
    if generator.random() < 0.15:
        return generator.choice(list(REGISTERED_SHAPES.values()))
    domain = generator.choice(DOMAINS)
    fields = generator.sample(list(domain.fields), generator.randint(2, MAX_FIELDS))
    texts = [name for name in fields if domain.fields[name].schema == {"type": "string"}]
    nullable = frozenset(name for name in texts if generator.random() < 0.15)
    bounded = frozenset(name for name in texts if generator.random() < 0.3)
    return Shape(domain, tuple(fields), nullable, bounded)


def fill_example(shape: Shape, words: Words) -> Example:
    """A paragraph about one thing of the shape's domain, and the answer that fills its schema."""
    domain, choose = shape.domain, words.random
    drawn = {name: kind.draw(words) for name, kind in domain.fields.items()}
    groups = list(domain.sentences)
    choose.shuffle(groups)
    needed = {name for name in shape.fields if name not in shape.nullable or choose.random() < 0.5}
    sentences, stated = [], set()
    for group in groups:
        sentence = choose.choice(group)
        names = {name for name in domain.fields if f"{{{name}}}" in sentence}
        if names & needed or (not names & set(shape.fields) and choose.random() < 0.4):
            sentences.append(sentence.format_map({name: drawn[name][1] for name in names}))
            stated |= names
    answer: dict[str, Value] = {name: drawn[name][0] if name in stated else None for name in shape.fields}
    schema = shape.schema
    user = f"Schema: {json.dumps(schema, separators=(',', ':'))}\nText: {' '.join(sentences)}"
    return Example("generate_json", "Fill the schema from the text. Answer with JSON only.", user, answer, schema)


def _json_example(words: Words) -> Example:
    return fill_example(choose_shape(words.random), words)


# rank_candidates

_CRITERIA = (
    # what the prompt asks for, what each candidate states, whether less is better, the most
    ("price, cheapest first", "{} dollars", True, 9_999),
    ("price, most expensive first", "{} dollars", False, 9_999),
    ("weight, lightest first", "{} g", True, 9_999),
    ("weight, heaviest first", "{} g", False, 9_999),
    ("rating, best first", "{} points", False, 999),
    ("rating, worst first", "{} points", True, 999),
    ("delivery time, fastest first", "{} hours", True, 999),
    ("delivery time, slowest first", "{} hours", False, 999),
    ("distance, nearest first", "{} km", True, 9_999),
    ("distance, farthest first", "{} km", False, 9_999),
    ("stock, most first", "{} in stock", False, 999),
    ("stock, least first", "{} in stock", True, 999),
)


def _ranking_example(words: Words) -> Example:
    choose = words.random
    criterion, unit, less_is_better, most = choose.choice(_CRITERIA)
    letters = LETTERS[: choose.randint(3, len(LETTERS))]
    most = choose.choice((most, 99 if most > 99 else most))
    values: dict[str, int] = {}
    for letter in letters:
        values[letter] = _fresh_number(words, most, set(values.values()))
    lines = [f"{letter}: {_candidate(words)}, {unit.format(values[letter])}" for letter in letters]
    ranking = sorted(letters, key=values.__getitem__, reverse=not less_is_better)
    user = f"Rank by {criterion}.\n" + "\n".join(lines)
    answer = {"values": values, "ranking": ranking}
    return Example("rank_candidates", "Rank the candidates. Answer with JSON only.", user, answer)


def _candidate(words: Words) -> str:
    draw: Callable[[], str] = words.random.choice((words.person, words.thing, words.place))
    return draw()


def _fresh_number(words: Words, most: int, taken: set[int]) -> int:
    while True:
        number = words.number(1, most)
        if number not in taken:
            return number


# judge

CHECKS = ("person", "amount", "date", "place")
_FACTS = (
    "{person} paid {amount} dollars in {place} on {date}.",
    "On {date} {person} spent {amount} dollars in {place}.",
    "In {place}, {amount} dollars were received from {person} on {date}.",
    "{amount} dollars went to {person} in {place} on {date}.",
    "The {place} office charged {person} {amount} dollars on {date}.",
)
_ASIDES = (
    "The receipt is filed.",
    "It was for the {thing}.",
    "The {thing} came later.",
    "Nobody complained.",
    "The clerk checked the {thing} twice.",
)
_POINTS_LOST = 3


def _judge_example(words: Words) -> Example:
    choose = words.random
    facts = _draw_facts(words)
    num_wrong = choose.choices((0, 1, 2), (5, 4, 1))[0]
    wrong = set(choose.sample(CHECKS, num_wrong))
    claimed = {check: _other(words, check, fact) if check in wrong else fact for check, fact in facts.items()}
    evidence = [choose.choice(_FACTS).format_map(facts)]
    for aside in choose.sample(_ASIDES, choose.randint(0, 2)):
        evidence.insert(choose.randint(0, len(evidence)), aside.format(thing=words.thing()))
    user = f"Evidence: {' '.join(evidence)}\nClaim: {choose.choice(_FACTS).format_map(claimed)}"
    failing = next((check for check in CHECKS if check in wrong), "none")
    answer = {
        "checks": {check: check not in wrong for check in CHECKS},
        "failing_criterion": failing,
        "verdict": "fail" if wrong else "pass",
        "score": 10 - _POINTS_LOST * len(wrong),
    }
    return Example("judge", "Judge whether the evidence supports the claim. Answer with JSON only.", user, answer)


def _draw_facts(words: Words) -> dict[str, str]:
    return {"person": words.person(), "amount": words.cents(5_000), "date": words.day(), "place": words.place()}


def _other(words: Words, check: str, fact: str) -> str:
    """A value that differs from `fact`, often in a small part of it."""
    while True:
        other = _draw_facts(words)[check]
        if check == "person" and words.random.random() < 0.5:
            other = _swap_half(words.random, fact, other)
        elif check in ("amount", "date") and words.random.random() < 0.5:
            other = _change_digit(words.random, fact)
        if other != fact:
            return other


def _swap_half(generator: random.Random, fact: str, other: str) -> str:
    """The first name of one with the last name of the other."""
    (first, last), (other_first, other_last) = fact.split(), other.split()
    return generator.choice((f"{first} {other_last}", f"{other_first} {last}"))


def _change_digit(generator: random.Random, fact: str) -> str:
    """`fact` with one digit changed; a date keeps a day that every month has."""
    places = [place for place, letter in enumerate(fact) if letter.isdigit()]
    if fact.count("-") == 2:
        places = [3] if fact[8] == "3" else [3, 9]  # the last digits of year and day
    place = generator.choice(places)
    digits = "12345678" if fact.count("-") == 2 else "123456789"
    return fact[:place] + generator.choice(digits) + fact[place + 1 :]


_MAKERS: dict[str, Callable[[Words], Example]] = dict(
    zip(TASKS, (_json_example, _ranking_example, _judge_example), strict=True)
)
