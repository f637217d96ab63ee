"""Examples of generate_json: a JSON Schema, a paragraph that states the values, and the filled schema."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from embedded_model.examples.domains import DOMAINS, OUT_OF_DISTRIBUTION_DOMAINS, Domain, random_domain
from embedded_model.examples.example import Example
from embedded_model.examples.field_types import Value
from embedded_model.examples.prompt_template import PromptTemplate
from embedded_model.examples.value_sampler import ValueSampler

MAX_FIELDS = 6
MAX_LENGTH = 32  # characters of a string with a bounded length

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
_WITH_SCHEMA = PromptTemplate(
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
_WITH_FIELDS = PromptTemplate(
    _INSTRUCTIONS,
    (
        "Fields: {schema}\nText: {text}",
        "Text: {text}\nFields: {schema}",
        "{text}\nAnswer with JSON: {schema}.",
        "Extract {schema}.\n{text}",
    ),
)
_WITHOUT_SCHEMA = PromptTemplate(_INSTRUCTIONS, ("{text}", "Text: {text}", "Text:\n{text}", "Input: {text}"))
_OUT_OF_DISTRIBUTION = PromptTemplate(
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


class SchemaSpec(NamedTuple):
    """Which fields of a domain a schema asks for, in order.

    The paragraph may leave out the `nullable` ones; the schema bounds the length of the `bounded` ones. `naming` is
    the style of field names in the schema: snake, camel or kebab.
    """

    domain: Domain
    fields: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    bounded: frozenset[str] = frozenset()
    naming: str = "snake"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema that the client sends."""
        return object_schema({self.property_name(field): self._field_schema(field) for field in self.fields})

    def property_name(self, field: str) -> str:
        """The name of a field in the schema."""
        first, *rest = field.split("_")
        if self.naming == "camel":
            return first + "".join(map(str.capitalize, rest))
        return "-".join((first, *rest)) if self.naming == "kebab" else field

    def _field_schema(self, field: str) -> dict[str, Any]:
        schema = self.domain.fields[field].schema
        if field in self.nullable:
            schema = {"type": ["string", "null"]}
        return schema if field not in self.bounded else schema | {"maxLength": MAX_LENGTH}


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


REGISTERED_SPECS = {
    "order": SchemaSpec(
        DOMAINS[0],
        ("order_id", "customer", "product", "quantity", "status", "gift"),
        bounded=frozenset(("customer", "product")),
    ),
    "ticket": SchemaSpec(
        DOMAINS[1],
        ("ticket_id", "reporter", "component", "severity", "num_users"),
        bounded=frozenset(("reporter", "component")),
    ),
    "invoice": SchemaSpec(
        DOMAINS[3],
        ("invoice_id", "supplier", "total", "currency", "due_on", "paid"),
        bounded=frozenset(("supplier",)),
    ),
}


def random_spec(sampler: ValueSampler, is_out_of_distribution: bool = False) -> SchemaSpec:
    """Sometimes a registered schema, else random fields of a random domain."""
    rng = sampler.random
    if is_out_of_distribution:
        return _random_fields(rng.choice((*OUT_OF_DISTRIBUTION_DOMAINS, random_domain(sampler))), rng)
    if rng.random() < 0.18:
        return rng.choice(list(REGISTERED_SPECS.values()))
    return _random_fields(random_domain(sampler) if rng.random() < 0.25 else rng.choice(DOMAINS), rng)


def _random_fields(domain: Domain, rng: random.Random) -> SchemaSpec:
    max_fields = min(MAX_FIELDS, len(domain.fields))
    fields = rng.sample(list(domain.fields), rng.randint(min(2, max_fields), max_fields))
    strings = [field for field in fields if domain.fields[field].schema == {"type": "string"}]
    nullable = frozenset(field for field in strings if rng.random() < 0.15)
    bounded = frozenset(field for field in strings if rng.random() < 0.3)
    naming = rng.choices(("snake", "camel", "kebab"), (8, 2, 1))[0]
    return SchemaSpec(domain, tuple(fields), nullable, bounded, naming)


def example_of_spec(spec: SchemaSpec, sampler: ValueSampler, is_out_of_distribution: bool = False) -> Example:
    """A paragraph about one record of the spec's domain, and the answer that fills the spec's schema."""
    text, answer = _paragraph(spec, sampler)
    template, schema = _schema_format(spec, sampler.random)
    if is_out_of_distribution:
        template = _OUT_OF_DISTRIBUTION
    prompt = template.render(sampler.random, {"schema": schema, "text": text})
    return Example("generate_json", prompt.system, prompt.user, answer, spec.schema, prompt.is_chat)


def generate_json_example(sampler: ValueSampler) -> Example:
    """The next training example, of a random schema."""
    return example_of_spec(random_spec(sampler), sampler)


def _paragraph(spec: SchemaSpec, sampler: ValueSampler) -> tuple[str, dict[str, Value]]:
    """Sentences that state the spec's fields and sometimes others, and the answer: null for a field not stated."""
    domain, rng = spec.domain, sampler.random
    sampled = {name: field_type.sample(sampler) for name, field_type in domain.fields.items()}
    groups = list(domain.sentence_groups)
    rng.shuffle(groups)
    required = {name for name in spec.fields if name not in spec.nullable or rng.random() < 0.5}
    stated: dict[str, Value] = {}
    sentences = []
    for group in groups:
        sentence = rng.choice(group)
        names = [name for name in domain.fields if f"{{{name}}}" in sentence]
        is_extra = required.isdisjoint(names)
        if is_extra and (not set(names).isdisjoint(spec.fields) or rng.random() >= 0.4):
            continue
        if rng.random() < 0.15:
            sentence = " ".join(_labelled_value(name) for name in names)
            sentences.append(sentence.format_map({name: _plain_value(*sampled[name]) for name in names}))
        else:
            sentences.append(sentence.format_map({name: sampled[name][1] for name in names}))
        stated |= {name: sampled[name][0] for name in names}
    answer = {spec.property_name(name): stated.get(name) for name in spec.fields}
    return rng.choice((" ", " ", " ", "\n")).join(sentences), answer


def _labelled_value(name: str) -> str:
    """`Ordered on: {ordered_on}.`"""
    return f"{name.replace('_', ' ').capitalize()}: {{{name}}}."


def _plain_value(value: Value, stated: str) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else stated


def _schema_format(spec: SchemaSpec, rng: random.Random) -> tuple[PromptTemplate, str]:
    """How the prompt shows the schema: as JSON, as a list of fields, or not at all."""
    share = rng.random()
    if share < (0.3 if spec in REGISTERED_SPECS.values() else 0.08):
        return _WITHOUT_SCHEMA, ""
    if share > 0.93:
        return _WITH_FIELDS, ", ".join(map(spec.property_name, spec.fields))
    return _WITH_SCHEMA, _schema_text(spec.schema, rng)


def _schema_text(schema: dict[str, Any], rng: random.Random) -> str:
    members = list(schema.items())
    if rng.random() < 0.15:
        members = [member for member in members if member[0] != "additionalProperties"]
    if rng.random() < 0.15:
        rng.shuffle(members)
    if rng.random() < 0.1:
        members.insert(0, ("title", rng.choice(("Answer", "Record", "The facts that a text states"))))
    tree = dict(members)
    share = rng.random()
    if share < 0.45:
        return json.dumps(tree, separators=(",", ":"))
    return json.dumps(tree) if share < 0.75 else json.dumps(tree, indent=rng.choice((2, 2, 4)))
