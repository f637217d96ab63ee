"""Arrays as grammar expressions: the items of `prefixItems` in order, then the rest, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llm_policy.guidance.counting import Counting
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

_PREFIX_GROUP = 8
"""Prefix items in one rule; each item nests in the one before."""
MAX_COPIES = 4
"""Items that are counted at most when nothing else may be."""


@dataclass
class ArrayConstraints:
    """What one alternative demands of an array; `prefix` and `rest` are the schemas of its items."""

    prefix: list[Conjunction] = field(default_factory=list)
    rest: Conjunction = ()
    min_items: int = 0
    max_items: int | None = None
    contains: list[Subschema] = field(default_factory=list)


class ArrayWriter:
    """Writes the arrays of one alternative."""

    def __init__(
        self,
        grammar: Grammar,
        limits: GuideLimits,
        counting: Counting,
        unenforced: KeywordReport,
        write_value: WriteValue,
    ) -> None:
        self._grammar = grammar
        self._counting = counting
        self._limits = limits
        self._unenforced = unenforced
        self._write_value = write_value

    def expression(self, subschemas: tuple[Subschema, ...]) -> Expression:
        """An array with its brackets; NOTHING if the keywords contradict each other."""
        array = self._constraints(subschemas)
        if array.max_items is not None and array.min_items > array.max_items:
            return NOTHING
        return wrapped("[", self._content(array), "]")

    def _constraints(self, subschemas: tuple[Subschema, ...]) -> ArrayConstraints:
        array = ArrayConstraints()
        for subschema in subschemas:
            self._add(subschema, array)
        if self._counting is Counting.NONE:
            self._leave_out_counts(array, subschemas[0].pointer if subschemas else "")
        width = max((len(subschema.keywords.get("prefixItems", ())) for subschema in subschemas), default=0)
        array.prefix = [tuple(s for subschema in subschemas for s in _item_schemas(subschema, i)) for i in range(width)]
        array.rest = tuple(s for subschema in subschemas for s in _item_schemas(subschema, width))
        return array

    def _add(self, subschema: Subschema, array: ArrayConstraints) -> None:
        keywords = subschema.keywords
        array.min_items = max(array.min_items, keywords.get("minItems", 0))
        if "maxItems" in keywords:
            array.max_items = (
                keywords["maxItems"] if array.max_items is None else min(array.max_items, keywords["maxItems"])
            )
        if "contains" in keywords and keywords.get("minContains") != 0:
            array.contains.append(keywords["contains"])
        if "contains" in keywords and (keywords.get("minContains", 1) > 1 or "maxContains" in keywords):
            self._unenforced.add(subschema.pointer, "minContains/maxContains", "matching items are not counted")
        if keywords.get("uniqueItems") and (array.max_items is None or array.max_items > 1):
            self._unenforced.add(subschema.pointer, "uniqueItems", "items are not compared")
        if "unevaluatedItems" in keywords and not keywords["unevaluatedItems"].is_true:
            self._unenforced.add(subschema.pointer, "unevaluatedItems", "not enforced")

    def _leave_out_counts(self, array: ArrayConstraints, pointer: str) -> None:
        """Only a few copies remain; XGrammar's masks are fast for most counts of items, but not for all."""
        if array.max_items is not None and array.max_items > MAX_COPIES:
            self._unenforced.add(pointer, "maxItems", "counting so many items costs too much")
            array.max_items = None
        if array.min_items > MAX_COPIES:
            self._unenforced.add(pointer, "minItems", "counting so many items costs too much, enforced is 1")
            array.min_items = 1

    def _content(self, array: ArrayConstraints) -> Expression:
        rest = self._rest(array)
        if array.contains:
            content = self._with_contained(array, rest)
            if content is not None:
                return content
        if not array.prefix:
            return listed(rest, min(array.min_items, self._limits.max_repeat), self._max_items(array))
        return self._tuple(array, rest)

    def _rest(self, array: ArrayConstraints) -> Expression:
        if any(schema.is_false for schema in array.rest):
            return NOTHING
        return self._write_value(array.rest)

    def _max_items(self, array: ArrayConstraints) -> int | None:
        return None if array.max_items is None or array.max_items > self._limits.max_repeat else array.max_items

    def _tuple(self, array: ArrayConstraints, rest: Expression) -> Expression:
        """The array may end at every prefix item once `minItems` is reached."""
        prefix = array.prefix if array.max_items is None else array.prefix[: array.max_items]
        width = len(prefix)
        max_items = self._max_items(array)
        tail = repeat(
            sequence(Literal(","), rest),
            max(array.min_items - width, 0),
            None if max_items is None else max(max_items - width, 0),
        )
        for i in range(width - 1, -1, -1):
            value = self._write_value(prefix[i])
            tail = sequence(Literal(",") if i else EMPTY, value, tail)
            if i >= array.min_items:
                tail = optional(tail)
            if i % _PREFIX_GROUP == 0 and i:
                tail = self._grammar.define(f"t{len(self._grammar.rules)}", tail)
        return tail

    def _with_contained(self, array: ArrayConstraints, rest: Expression) -> Expression | None:
        """`contains` on its own: one item, at any index, also matches it; None beside other keywords for items."""
        if len(array.contains) > 1 or array.prefix or array.max_items is not None or array.min_items > 1:
            for schema in array.contains:
                self._unenforced.add(schema.pointer, "contains", "beside other keywords for items")
            return None
        matching = self._write_value((*array.rest, array.contains[0]))
        before = repeat(sequence(rest, Literal(",")), 0, None)
        return sequence(before, matching, repeat(sequence(Literal(","), rest), 0, None))


def _item_schemas(subschema: Subschema, index: int) -> list[Subschema]:
    prefix = subschema.keywords.get("prefixItems", [])
    if index < len(prefix):
        return [prefix[index]]
    return [subschema.keywords["items"]] if "items" in subschema.keywords else []
