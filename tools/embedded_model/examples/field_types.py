"""Types of fields in the generate_json examples: each has a JSON Schema and a sampler of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from embedded_model.examples.value_sampler import ValueSampler

Value = str | int | float | bool | list[str] | None


class FieldType(NamedTuple):
    """A JSON Schema, and a function that returns (value, the value as a sentence states it)."""

    schema: dict[str, Any]
    sample: Callable[[ValueSampler], tuple[Value, str]]


def string(sample_text: Callable[[ValueSampler], str]) -> FieldType:
    """A string."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        value = sample_text(sampler)
        return value, value

    return FieldType({"type": "string"}, sample)


def code(prefix: str, num_digits: int) -> FieldType:
    """A string with a pattern, such as ORD-4711."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        value = sampler.code(prefix, num_digits)
        return value, value

    return FieldType({"type": "string", "pattern": f"^{prefix}-[0-9]{{{num_digits}}}$"}, sample)


def choice(*options: str) -> FieldType:
    """One of several strings."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        value = sampler.random.choice(options)
        return value, value

    return FieldType({"enum": list(options)}, sample)


def integer(minimum: int, maximum: int) -> FieldType:
    """An integer within inclusive bounds."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        value = sampler.integer(minimum, maximum)
        return value, str(value)

    return FieldType({"type": "integer", "minimum": minimum, "maximum": maximum}, sample)


def amount(limit: int) -> FieldType:
    """A number below `limit` with two decimal places."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        stated = sampler.amount(limit)
        return float(stated), stated

    return FieldType({"type": "number", "minimum": 0}, sample)


def flag(if_true: str, if_false: str) -> FieldType:
    """A boolean, stated by one of two sentences."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        value = sampler.random.random() < 0.5
        return value, if_true if value else if_false

    return FieldType({"type": "boolean"}, sample)


def list_of(sample_text: Callable[[ValueSampler], str]) -> FieldType:
    """One to four strings, stated as `a, b and c`."""

    def sample(sampler: ValueSampler) -> tuple[Value, str]:
        texts = [sample_text(sampler) for _ in range(sampler.random.randint(1, 4))]
        stated = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
        return list(texts), stated

    return FieldType({"type": "array", "items": {"type": "string"}}, sample)


def name_with_suffix(suffix: str) -> FieldType:
    """A thing's name and a word after it, like the name of a company."""
    return string(lambda sampler: f"{sampler.thing().capitalize()} {suffix}")


DATE = FieldType({"type": "string", "format": "date"}, string(ValueSampler.iso_date).sample)
PERSON, PLACE, THING = string(ValueSampler.person), string(ValueSampler.place), string(ValueSampler.thing)
