"""Conjunctions of subschemas as grammar rules, one rule per distinct conjunction.

A worklist replaces recursion, however deeply the schema nests. A recursive reference becomes a reference to the rule of
its conjunction.
"""

from __future__ import annotations

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.grammar import Expression, Grammar, Literal, Rule, choice
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.json_reader import canonical_json, write_json
from llm_policy.guidance.json_schema.arrays import ArrayWriter
from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.literals import LiteralFilter, listed_values
from llm_policy.guidance.json_schema.normal_form import Alternative, Conjunction, NormalForm
from llm_policy.guidance.json_schema.numbers import NumberWriter
from llm_policy.guidance.json_schema.objects import ObjectWriter
from llm_policy.guidance.json_schema.string_constraints import string_constraints
from llm_policy.guidance.json_schema.strings import StringWriter
from llm_policy.guidance.json_schema.subschema import (
    ALL_TYPES,
    EXCLUDED,
    FORBIDDEN,
    NUMBER_TYPES,
    Subschema,
    keyword_set,
)
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits

_KEYWORDS_BY_TYPE = {
    "object": keyword_set(
        "properties patternProperties additionalProperties propertyNames required minProperties maxProperties "
        "unevaluatedProperties"
    )
    | {FORBIDDEN},
    "array": keyword_set("prefixItems items minItems maxItems contains uniqueItems unevaluatedItems"),
    "string": keyword_set("minLength maxLength pattern format"),
    "number": keyword_set("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"),
}


class ValueWriter:
    """Writes the grammar of a whole document."""

    def __init__(
        self,
        document: Document,
        limits: GuideLimits,
        counting: Counting,
        unenforced: KeywordReport,
        narrowed: KeywordReport,
    ) -> None:
        self.grammar = Grammar("root")
        self._limits = limits
        self._unenforced = unenforced
        self._narrowed = narrowed
        self._text = JsonText(self.grammar)
        self._normal_form = NormalForm(document, limits, unenforced)
        self._literals = LiteralFilter(self._normal_form, document.draft)
        self._strings = StringWriter(self._text, limits, counting, unenforced)
        self._numbers = NumberWriter(self.grammar, self._text, unenforced)
        self._arrays = ArrayWriter(self.grammar, limits, counting, unenforced, self.rule)
        self._objects = ObjectWriter(
            self.grammar, self._strings, self._literals, self._normal_form, limits, unenforced, narrowed, self.rule
        )
        self._names: dict[Conjunction, str] = {}
        self._pending: list[Conjunction] = []

    def write(self, root: Subschema) -> Grammar:
        """The grammar of the values that the root allows.

        Raises:
            InvalidRequest: `schema_invalid` if there are none, `schema_too_complex` for too many rules.
        """
        self.grammar.define("root", self.rule((root,)))
        while self._pending:
            conjunction = self._pending.pop()
            self.grammar.define(self._names[conjunction], self._expression(conjunction))
            check_limit("number of grammar rules", len(self.grammar.rules), self._limits.max_rules)
        if not self.grammar.prune():
            raise invalid("no value satisfies the schema")
        return self.grammar

    def rule(self, conjunction: Conjunction) -> Rule:
        """The rule of the values that satisfy all these subschemas."""
        nodes = tuple(dict.fromkeys(self._target(node) for node in conjunction))
        nodes = tuple(node for node in nodes if not node.is_true)
        if not nodes:
            return self._text.any_value()
        if nodes not in self._names:
            self._names[nodes] = f"v{len(self._names)}"
            self._pending.append(nodes)
        return Rule(self._names[nodes])

    def _target(self, node: Subschema) -> Subschema:
        """The subschema that `node` refers to if it is only a reference; otherwise `node`."""
        seen: set[Subschema] = set()
        while "$ref" in node.keywords and node.keywords.keys() <= {"$ref", "$defs", "definitions"}:
            if node in seen:
                raise invalid(f"subschema {node.number} refers only to itself")
            seen.add(node)
            node = node.keywords["$ref"]
        return node

    def _expression(self, conjunction: Conjunction) -> Expression:
        options: list[Expression] = []
        for alternative in self._normal_form.alternatives(conjunction):
            check_limit("number of grammar rules", len(self.grammar.rules), self._limits.max_rules)
            alternative = self._with_inferred_type(alternative)
            values = listed_values(alternative)
            options.extend(self._listed(alternative, values) if values is not None else self._typed(alternative))
        return choice(*options)

    def _with_inferred_type(self, alternative: Alternative) -> Alternative:
        """If a schema has no `type` but constrains a single type, only that type is offered."""
        if alternative.types != ALL_TYPES or not alternative.subschemas:
            return alternative
        keywords = {keyword for subschema in alternative.subschemas for keyword in subschema.keywords}
        if keywords & {"enum", "const"}:
            return alternative
        constrained = [name for name, members in _KEYWORDS_BY_TYPE.items() if keywords & members]
        if len(constrained) != 1:
            return alternative
        self._narrowed.add(alternative.subschemas[0].pointer, "type", f"inferred as {constrained[0]}")
        types = NUMBER_TYPES if constrained[0] == "number" else frozenset(constrained)
        return Alternative(types, alternative.subschemas)

    def _listed(self, alternative: Alternative, values: list[object]) -> list[Expression]:
        options: list[Expression] = []
        for value in values:
            if self._literals.allows(alternative, value):
                options.extend(Literal(text) for text in dict.fromkeys((write_json(value), *_without_fraction(value))))
        return options

    def _typed(self, alternative: Alternative) -> list[Expression]:
        types, subschemas = alternative.types, alternative.subschemas
        options: list[Expression] = []
        if "object" in types:
            is_free = not _constrains(subschemas, "object")
            options.append(self._text.any_object() if is_free else self._objects.expression(subschemas))
        if "array" in types:
            is_free = not _constrains(subschemas, "array")
            options.append(self._text.any_array() if is_free else self._arrays.expression(subschemas))
        if "string" in types:
            options.append(self._strings.value(string_constraints(subschemas, self._unenforced)))
        if types & NUMBER_TYPES:
            if "integer" not in types:
                self._unenforced.add(subschemas[0].pointer, "type", "integers are not distinguished from other numbers")
            options.append(self._numbers.expression(subschemas, integers_only="fraction" not in types))
        options.extend(Literal(literal) for literal in self._keyword_literals(types, subschemas))
        return options

    def _keyword_literals(self, types: frozenset[str], subschemas: tuple[Subschema, ...]) -> list[str]:
        excluded = {canonical_json(value) for subschema in subschemas for value in subschema.keywords.get(EXCLUDED, ())}
        if any(_is_not_excludable(text, types) for text in excluded):
            self._unenforced.add(subschemas[0].pointer, "not", "this value is not excluded")
        literals = (["true", "false"] if "boolean" in types else []) + (["null"] if "null" in types else [])
        return [literal for literal in literals if literal not in excluded]


def _constrains(subschemas: tuple[Subschema, ...], type_name: str) -> bool:
    return any(not _KEYWORDS_BY_TYPE[type_name].isdisjoint(subschema.keywords) for subschema in subschemas)


def _is_not_excludable(text: str, types: frozenset[str]) -> bool:
    """Whether an excluded value (as canonical text) has a type from which no single value can be excluded here."""
    value_type = {"{": "object", "[": "array", '"': "", "t": "", "f": "", "n": ""}.get(text[0], "fraction")
    return value_type in types


def _without_fraction(value: object) -> list[str]:
    """The text without the fraction, for a float that is an integer."""
    return [canonical_json(value)] if isinstance(value, float) and value.is_integer() else []
