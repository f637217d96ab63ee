"""Number constraints that hold together, as one grammar expression."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from llm_policy.guidance.grammar.grammar import Expression, Grammar
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.numbers import (
    Bounds,
    decimal,
    integers_without,
    is_followable,
    multiples,
    number_expression,
)
from llm_policy.guidance.json_schema.subschema import EXCLUDED, Subschema

_CUTS: dict[str, Callable[[Bounds, Decimal], Bounds]] = {
    "minimum": lambda bounds, value: bounds.with_low(value, exclusive=False),
    "exclusiveMinimum": lambda bounds, value: bounds.with_low(value, exclusive=True),
    "maximum": lambda bounds, value: bounds.with_high(value, exclusive=False),
    "exclusiveMaximum": lambda bounds, value: bounds.with_high(value, exclusive=True),
}


class NumberWriter:
    """Writes number ranges, each distinct one once."""

    def __init__(self, grammar: Grammar, text: JsonText, report: KeywordReport) -> None:
        self._grammar = grammar
        self._text = text
        self._report = report
        self._written: dict[tuple[Bounds, bool, int | None, frozenset[int]], Expression] = {}

    def expression(self, bases: tuple[Subschema, ...], *, integers_only: bool) -> Expression:
        """Numbers that satisfy all the subschemas."""
        bounds = self._bounds(bases)
        divisor = self._divisor(bases, integers_only=integers_only)
        excluded = _excluded_integers(bases) if integers_only else frozenset()
        key = (bounds, integers_only, divisor, excluded)
        if key not in self._written:
            self._written[key] = self._write(bounds, divisor, bases, excluded, integers_only=integers_only)
        return self._written[key]

    def _bounds(self, bases: tuple[Subschema, ...]) -> Bounds:
        bounds = Bounds()
        for base in bases:
            for word, cut in _CUTS.items():
                if word in base.keywords:
                    value = decimal(base.keywords[word])
                    if is_followable(value):
                        bounds = cut(bounds, value)
                    else:
                        self._report.add(base.pointer, word, "a bound with too many digits")
        return bounds

    def _divisor(self, bases: tuple[Subschema, ...], *, integers_only: bool) -> int | None:
        """The one divisor that is followed: a whole number, for integers."""
        found: int | None = None
        for base in bases:
            value = base.keywords.get("multipleOf")
            if value is None or (integers_only and (1 / decimal(value)) % 1 == 0):
                continue
            if found is None and integers_only and value == int(value):
                found = int(value)
            elif found != value:
                self._report.add(base.pointer, "multipleOf", "not followed for this divisor")
        return found

    def _write(
        self,
        bounds: Bounds,
        divisor: int | None,
        bases: tuple[Subschema, ...],
        excluded: frozenset[int],
        *,
        integers_only: bool,
    ) -> Expression:
        if divisor is not None:
            if excluded:
                self._report.add(bases[0].pointer, "not", "values beside multipleOf")
            prefix = f"m{len(self._grammar.rules)}_"
            found = multiples(bounds, divisor, self._grammar, prefix)
            if found is not None:
                return found
            pointer = next(base.pointer for base in bases if "multipleOf" in base.keywords)
            self._report.add(pointer, "multipleOf", "not followed within this range")
        name = f"n{len(self._written)}"
        if integers_only:
            return self._grammar.define(name, integers_without(*bounds.integers(), sorted(excluded)))
        if bounds == Bounds():
            return self._text.any_number()
        return self._grammar.define(name, number_expression(bounds))


def _excluded_integers(bases: tuple[Subschema, ...]) -> frozenset[int]:
    values = [value for base in bases for value in base.keywords.get(EXCLUDED, ())]
    return frozenset(int(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v == int(v))
