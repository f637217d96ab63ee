"""Number constraints as grammar expressions."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from llm_policy.guidance.grammar.grammar import Expression, Grammar
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.json_schema.decimal_ranges import number_expression
from llm_policy.guidance.json_schema.integer_ranges import integers_without, multiples
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.number_bounds import Bounds, decimal, is_enforceable
from llm_policy.guidance.json_schema.subschema import EXCLUDED, Subschema

_RESTRICTIONS: dict[str, Callable[[Bounds, Decimal], Bounds]] = {
    "minimum": lambda bounds, value: bounds.with_low(value, exclusive=False),
    "exclusiveMinimum": lambda bounds, value: bounds.with_low(value, exclusive=True),
    "maximum": lambda bounds, value: bounds.with_high(value, exclusive=False),
    "exclusiveMaximum": lambda bounds, value: bounds.with_high(value, exclusive=True),
}


class NumberWriter:
    """Writes the numbers of one alternative, each distinct set of constraints once."""

    def __init__(self, grammar: Grammar, text: JsonText, unenforced: KeywordReport) -> None:
        self._grammar = grammar
        self._text = text
        self._unenforced = unenforced
        self._written: dict[tuple[Bounds, bool, int | None, frozenset[int]], Expression] = {}

    def expression(self, subschemas: tuple[Subschema, ...], *, integers_only: bool) -> Expression:
        """Numbers that satisfy all subschemas."""
        integers_only = integers_only or any(map(_has_integer_divisor, subschemas))
        bounds = self._bounds(subschemas)
        divisor = self._divisor(subschemas, integers_only=integers_only)
        excluded = _excluded_integers(subschemas) if integers_only else frozenset()
        key = (bounds, integers_only, divisor, excluded)
        if key not in self._written:
            self._written[key] = self._write(bounds, divisor, subschemas, excluded, integers_only=integers_only)
        return self._written[key]

    def _bounds(self, subschemas: tuple[Subschema, ...]) -> Bounds:
        bounds = Bounds()
        for subschema in subschemas:
            for keyword, restrict in _RESTRICTIONS.items():
                if keyword in subschema.keywords:
                    value = decimal(subschema.keywords[keyword])
                    if is_enforceable(value):
                        bounds = restrict(bounds, value)
                    else:
                        self._unenforced.add(subschema.pointer, keyword, "the bound has too many digits")
        return bounds

    def _divisor(self, subschemas: tuple[Subschema, ...], *, integers_only: bool) -> int | None:
        """The one enforced divisor: an integer, and only for integers."""
        found: int | None = None
        for subschema in subschemas:
            value = subschema.keywords.get("multipleOf")
            if value is None or (integers_only and (1 / decimal(value)) % 1 == 0):
                continue
            if found is None and integers_only and value == int(value):
                found = int(value)
            elif found != value:
                self._unenforced.add(subschema.pointer, "multipleOf", "not enforced for this divisor")
        return found

    def _write(
        self,
        bounds: Bounds,
        divisor: int | None,
        subschemas: tuple[Subschema, ...],
        excluded: frozenset[int],
        *,
        integers_only: bool,
    ) -> Expression:
        if divisor is not None:
            if excluded:
                self._unenforced.add(subschemas[0].pointer, "not", "values beside multipleOf are not excluded")
            prefix = f"m{len(self._grammar.rules)}_"
            found = multiples(bounds, divisor, self._grammar, prefix)
            if found is not None:
                return found
            pointer = next(subschema.pointer for subschema in subschemas if "multipleOf" in subschema.keywords)
            self._unenforced.add(pointer, "multipleOf", "not enforced in this range")
        name = f"n{len(self._written)}"
        if integers_only:
            return self._grammar.define(name, integers_without(*bounds.integers(), sorted(excluded)))
        if bounds == Bounds():
            return self._text.any_number()
        return self._grammar.define(name, number_expression(bounds))


def _has_integer_divisor(subschema: Subschema) -> bool:
    """Whether `multipleOf` allows integers only."""
    divisor = subschema.keywords.get("multipleOf")
    return divisor is not None and decimal(divisor) % 1 == 0


def _excluded_integers(subschemas: tuple[Subschema, ...]) -> frozenset[int]:
    values = [value for subschema in subschemas for value in subschema.keywords.get(EXCLUDED, ())]
    return frozenset(int(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v == int(v))
