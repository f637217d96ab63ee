"""Arrays as grammar expressions: a tuple's places in order, then the rest, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    NOTHING,
    Expression,
    Grammar,
    Literal,
    Rule,
    optional,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.json_text import listed, wrapped
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.normal_form import Conjunction
from llm_policy.guidance.json_schema.subschema import Subschema
from llm_policy.release.guide_limits import GuideLimits

WriteValue = Callable[[Conjunction], Rule]


_PLACES_INLINE = 8
"""Places of a tuple written into one rule; each nests in the one before."""


@dataclass
class Items:
    """What one alternative says about an array's items."""

    places: list[Conjunction] = field(default_factory=list)
    rest: Conjunction = ()
    least: int = 0
    most: int | None = None
    contains: list[Subschema] = field(default_factory=list)


class ArrayWriter:
    """Writes the arrays of one alternative."""

    def __init__(self, grammar: Grammar, limits: GuideLimits, report: KeywordReport, write_value: WriteValue) -> None:
        self._grammar = grammar
        self._limits = limits
        self._report = report
        self._write_value = write_value

    def expression(self, bases: tuple[Subschema, ...]) -> Expression:
        """An array with its brackets."""
        items = self._items(bases)
        if items.most is not None and items.least > items.most:
            return NOTHING
        return wrapped("[", self._content(items), "]")

    def _items(self, bases: tuple[Subschema, ...]) -> Items:
        items = Items()
        for base in bases:
            self._read(base, items)
        width = max((len(base.keywords.get("prefixItems", ())) for base in bases), default=0)
        items.places = [tuple(s for base in bases for s in _item_schemas(base, i)) for i in range(width)]
        items.rest = tuple(s for base in bases for s in _item_schemas(base, width))
        return items

    def _read(self, base: Subschema, items: Items) -> None:
        words = base.keywords
        items.least = max(items.least, words.get("minItems", 0))
        if "maxItems" in words:
            items.most = words["maxItems"] if items.most is None else min(items.most, words["maxItems"])
        if "contains" in words and words.get("minContains") != 0:
            items.contains.append(words["contains"])
        if "contains" in words and (words.get("minContains", 1) > 1 or "maxContains" in words):
            self._report.add(base.pointer, "minContains/maxContains", "the matching items are not counted")
        if words.get("uniqueItems") and (items.most is None or items.most > 1):
            self._report.add(base.pointer, "uniqueItems", "items are not compared")
        if "unevaluatedItems" in words and not words["unevaluatedItems"].is_true:
            self._report.add(base.pointer, "unevaluatedItems", "not followed")

    def _content(self, items: Items) -> Expression:
        rest = self._rest(items)
        if items.contains:
            found = self._with_contained(items, rest)
            if found is not None:
                return found
        if not items.places:
            return listed(rest, min(items.least, self._limits.max_repeat), self._most(items))
        return self._tuple(items, rest)

    def _rest(self, items: Items) -> Expression:
        if any(schema.is_false for schema in items.rest):
            return NOTHING
        return self._write_value(items.rest)

    def _most(self, items: Items) -> int | None:
        return None if items.most is None or items.most > self._limits.max_repeat else items.most

    def _tuple(self, items: Items, rest: Expression) -> Expression:
        """Each place may end the array once `minItems` is reached."""
        places = items.places if items.most is None else items.places[: items.most]
        width = len(places)
        most = self._most(items)
        tail = repeat(
            sequence(Literal(","), rest), max(items.least - width, 0), None if most is None else max(most - width, 0)
        )
        for i in range(width - 1, -1, -1):
            value = self._write_value(places[i])
            tail = sequence(Literal(",") if i else EMPTY, value, tail)
            if i >= items.least:
                tail = optional(tail)
            if i % _PLACES_INLINE == 0 and i:
                tail = self._grammar.define(f"t{len(self._grammar.rules)}", tail)
        return tail

    def _with_contained(self, items: Items, rest: Expression) -> Expression | None:
        """`contains` where it stands alone: some item, anywhere, also matches it."""
        if len(items.contains) > 1 or items.places or items.most is not None or items.least > 1:
            for schema in items.contains:
                self._report.add(schema.pointer, "contains", "beside other keywords for items")
            return None
        wanted = self._write_value((*items.rest, items.contains[0]))
        before = repeat(sequence(rest, Literal(",")), 0, None)
        return sequence(before, wanted, repeat(sequence(Literal(","), rest), 0, None))


def _item_schemas(base: Subschema, place: int) -> list[Subschema]:
    prefix = base.keywords.get("prefixItems", [])
    if place < len(prefix):
        return [prefix[place]]
    return [base.keywords["items"]] if "items" in base.keywords else []
