"""Examples of generate_json: a schema, a paragraph that states what it asks for, and the schema filled."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from embedded_model.domains import DOMAINS, UNFAMILIAR_DOMAINS, Domain, Kind, Value, free_domain
from embedded_model.example import Example
from embedded_model.wording import Wording
from embedded_model.words import Words

MAX_FIELDS = 6
MAX_LENGTH = 32  # characters of a text in a schema that bounds it

_INSTRUCTIONS = (
    "Fill the schema from the text. Answer with JSON only.",
    "Fill in the JSON schema from the text.",
    "Extract the fields from the text as JSON.",
    "Extract the data. Answer with JSON only.",
    "Read the text and answer with JSON that fits the schema.",
    "You are a helpful assistant. Answer with JSON that follows the schema.",
    "You extract structured data from text. Reply only with JSON.",
    "Return a JSON object that fits the schema. No other words.",
    "Turn the text into JSON.",
    "What does the text say? Give JSON only.",
)
_WITH_SCHEMA = Wording(
    _INSTRUCTIONS,
    (
        "Schema: {schema}\nText: {text}",
        "Text: {text}\nSchema: {schema}",
        "Schema:\n{schema}\n\nText:\n{text}",
        "Text:\n{text}\n\nSchema:\n{schema}",
        "JSON schema: {schema}\n\nParagraph: {text}",
        "{schema}\n{text}",
        "{text}\n\n{schema}",
        "Input: {text}\nAnswer with JSON that fits this schema: {schema}",
    ),
)
_WITH_FIELDS = Wording(
    _INSTRUCTIONS,
    (
        "Fields: {schema}\nText: {text}",
        "Text: {text}\nFields: {schema}",
        "{text}\nAnswer with JSON: {schema}.",
        "Extract {schema}.\n{text}",
    ),
)
_TEXT_ALONE = Wording(_INSTRUCTIONS, ("{text}", "Text: {text}", "Text:\n{text}", "Input: {text}"))
_UNFAMILIAR = Wording(
    (
        "Kindly complete the form below, in JSON.",
        "As a clerk, note down what you read as one JSON object, please.",
        "Produce the record.",
    ),
    (
        "### Form ###\n{schema}\n### Letter ###\n{text}",
        "<note>{text}</note>\n<form>{schema}</form>",
        'Somebody wrote: "{text}" Now complete this: {schema}',
    ),
)


class Shape(NamedTuple):
    """What one example asks for: fields of a domain in order.

    Those in `nullable` may be missing in the text; the length of those in `bounded` has a limit. `style` is how the
    schema writes the fields' names.
    """

    domain: Domain
    fields: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    bounded: frozenset[str] = frozenset()
    style: str = "snake"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema that the client sends."""
        return object_schema({self.written(name): self._field_schema(name) for name in self.fields})

    def written(self, name: str) -> str:
        """The name of a field as the schema has it."""
        first, *rest = name.split("_")
        if self.style == "camel":
            return first + "".join(map(str.capitalize, rest))
        return "-".join((first, *rest)) if self.style == "kebab" else name

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


def choose_shape(words: Words, is_familiar: bool = True) -> Shape:
    """A registered shape now and then, else any fields of any domain in any order."""
    choose = words.random
    if not is_familiar:
        return _any_shape(choose.choice((*UNFAMILIAR_DOMAINS, free_domain(words))), choose)
    if choose.random() < 0.18:
        return choose.choice(list(REGISTERED_SHAPES.values()))
    return _any_shape(free_domain(words) if choose.random() < 0.25 else choose.choice(DOMAINS), choose)


def _any_shape(domain: Domain, choose: random.Random) -> Shape:
    most = min(MAX_FIELDS, len(domain.fields))
    fields = choose.sample(list(domain.fields), choose.randint(min(2, most), most))
    texts = [name for name in fields if domain.fields[name].schema == {"type": "string"}]
    nullable = frozenset(name for name in texts if choose.random() < 0.15)
    bounded = frozenset(name for name in texts if choose.random() < 0.3)
    return Shape(domain, tuple(fields), nullable, bounded, choose.choices(("snake", "camel", "kebab"), (8, 2, 1))[0])


def fill_example(shape: Shape, words: Words, is_familiar: bool = True) -> Example:
    """A paragraph about one thing of the shape's domain, and the answer that fills its schema."""
    text, answer = _paragraph(shape, words)
    wording, schema = _put_schema(shape, words.random)
    prompt = (wording if is_familiar else _UNFAMILIAR).prompt(words.random, {"schema": schema, "text": text})
    return Example("generate_json", prompt.system, prompt.user, answer, shape.schema, prompt.is_chat)


def filling_example(words: Words) -> Example:
    """The next example of any shape."""
    return fill_example(choose_shape(words), words)


def _paragraph(shape: Shape, words: Words) -> tuple[str, dict[str, Value]]:
    """Sentences that state what the shape needs and some things besides, and what they state of its fields."""
    domain, choose = shape.domain, words.random
    drawn = {name: kind.draw(words) for name, kind in domain.fields.items()}
    groups = list(domain.sentences)
    choose.shuffle(groups)
    needed = {name for name in shape.fields if name not in shape.nullable or choose.random() < 0.5}
    stated: dict[str, Value] = {}
    sentences = []
    for group in groups:
        sentence = choose.choice(group)
        names = [name for name in domain.fields if f"{{{name}}}" in sentence]
        is_extra = needed.isdisjoint(names)
        if is_extra and (not set(names).isdisjoint(shape.fields) or choose.random() >= 0.4):
            continue
        if choose.random() < 0.15:
            sentence = " ".join(_plain_sentence(name, domain.fields[name]) for name in names)
            sentences.append(sentence.format_map({name: _plainly(*drawn[name]) for name in names}))
        else:
            sentences.append(sentence.format_map({name: drawn[name][1] for name in names}))
        stated |= {name: drawn[name][0] for name in names}
    answer = {shape.written(name): stated.get(name) for name in shape.fields}
    return choose.choice((" ", " ", " ", "\n")).join(sentences), answer


def _plain_sentence(name: str, kind: Kind) -> str:
    """`Ordered on: {ordered_on}.`"""
    return f"{name.replace('_', ' ').capitalize()}: {{{name}}}."


def _plainly(value: Value, stated: str) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else stated


def _put_schema(shape: Shape, choose: random.Random) -> tuple[Wording, str]:
    """How the prompt shows the schema: as JSON in one of its usual forms, as a list of fields, or not at all."""
    rendition = choose.random()
    if rendition < (0.3 if shape in REGISTERED_SHAPES.values() else 0.08):
        return _TEXT_ALONE, ""
    if rendition > 0.93:
        return _WITH_FIELDS, ", ".join(map(shape.written, shape.fields))
    return _WITH_SCHEMA, _write_schema(shape.schema, choose)


def _write_schema(schema: dict[str, Any], choose: random.Random) -> str:
    members = list(schema.items())
    if choose.random() < 0.15:
        members = [member for member in members if member[0] != "additionalProperties"]
    if choose.random() < 0.15:
        choose.shuffle(members)
    if choose.random() < 0.1:
        members.insert(0, ("title", choose.choice(("Answer", "Record", "The facts that a text states"))))
    tree = dict(members)
    form = choose.random()
    if form < 0.45:
        return json.dumps(tree, separators=(",", ":"))
    return json.dumps(tree) if form < 0.75 else json.dumps(tree, indent=choose.choice((2, 2, 4)))
