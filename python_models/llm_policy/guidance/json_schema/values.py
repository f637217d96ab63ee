"""From conjunctions of subschemas to grammar rules, one rule for each distinct conjunction.

Rules are written from a queue, so neither nesting nor recursion of the schema is a recursion here: a reference back
to a conjunction that already has a rule is that rule's name.
"""

from __future__ import annotations

from llm_policy.guidance.grammar.grammar import NOTHING, Expression, Grammar, Literal, Rule, choice
from llm_policy.guidance.grammar.json_text import JsonText
from llm_policy.guidance.json_reader import canonical_json, write_json
from llm_policy.guidance.json_schema.arrays import ArrayWriter
from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.literals import LiteralFilter, listed_values
from llm_policy.guidance.json_schema.normal_form import Alternative, Conjunction, NormalForm
from llm_policy.guidance.json_schema.number_constraints import NumberWriter
from llm_policy.guidance.json_schema.objects import ObjectWriter
from llm_policy.guidance.json_schema.strings import StringWriter, string_facts
from llm_policy.guidance.json_schema.subschema import EVERY_TYPE, EXCLUDED, FORBIDDEN, NUMBERS, Subschema, words
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits

_GROUPS = {
    "object": words(
        "properties patternProperties additionalProperties propertyNames required minProperties maxProperties "
        "unevaluatedProperties"
    )
    | {FORBIDDEN},
    "array": words("prefixItems items minItems maxItems contains uniqueItems unevaluatedItems"),
    "string": words("minLength maxLength pattern format"),
    "number": words("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"),
}


class ValueWriter:
    """Writes the whole document's grammar."""

    def __init__(self, document: Document, limits: GuideLimits, report: KeywordReport, narrowed: KeywordReport) -> None:
        self.grammar = Grammar("root")
        self._limits = limits
        self._report = report
        self._narrowed = narrowed
        self._text = JsonText(self.grammar)
        self._expansion = NormalForm(document, limits, report)
        self._literals = LiteralFilter(self._expansion, document.draft)
        self._strings = StringWriter(self._text, limits, report)
        self._numbers = NumberWriter(self.grammar, self._text, report)
        self._arrays = ArrayWriter(self.grammar, limits, report, self.rule)
        self._objects = ObjectWriter(
            self.grammar, self._strings, self._literals, self._expansion, limits, report, narrowed, self.rule
        )
        self._names: dict[Conjunction, str] = {}
        self._waiting: list[Conjunction] = []

    def write(self, root: Subschema) -> Grammar:
        """The grammar of every value that the root allows. Raises `schema_invalid` when there is none."""
        self.grammar.define("root", self.rule((root,)))
        while self._waiting:
            conjunction = self._waiting.pop()
            self.grammar.define(self._names[conjunction], self._expression(conjunction))
            check_limit("number of grammar rules", len(self.grammar.rules), self._limits.max_rules)
        if not self.grammar.prune():
            raise invalid("no value satisfies the schema")
        return self.grammar

    def rule(self, conjunction: Conjunction) -> Rule:
        """The rule for values that satisfy all of these."""
        nodes = tuple(dict.fromkeys(self._target(node) for node in conjunction))
        nodes = tuple(node for node in nodes if not node.is_true)
        if not nodes:
            return self._text.any_value()
        if nodes not in self._names:
            self._names[nodes] = f"v{len(self._names)}"
            self._waiting.append(nodes)
        return Rule(self._names[nodes])

    def _target(self, node: Subschema) -> Subschema:
        """Where a subschema that is only a reference ends."""
        seen: set[Subschema] = set()
        while "$ref" in node.keywords and node.keywords.keys() <= {"$ref", "$defs", "definitions"}:
            if node in seen:
                raise invalid(f"subschema {node.number} refers only to itself")
            seen.add(node)
            node = node.keywords["$ref"]
        return node

    def _expression(self, conjunction: Conjunction) -> Expression:
        options: list[Expression] = []
        for alternative in self._expansion.alternatives(conjunction):
            check_limit("number of grammar rules", len(self.grammar.rules), self._limits.max_rules)
            alternative = self._with_inferred_type(alternative)
            values = listed_values(alternative)
            options.extend(self._values(alternative, values) if values is not None else self._typed(alternative))
        options = [option for option in options if option != NOTHING]
        return choice(*options) if options else NOTHING

    def _with_inferred_type(self, alternative: Alternative) -> Alternative:
        """Constraints of a single type and no `type`: models mean that type, and get only that."""
        if alternative.types != EVERY_TYPE or not alternative.bases:
            return alternative
        words = {word for base in alternative.bases for word in base.keywords}
        if words & {"enum", "const"}:
            return alternative
        groups = [name for name, members in _GROUPS.items() if words & members]
        if len(groups) != 1:
            return alternative
        self._narrowed.add(alternative.bases[0].pointer, "type", f"taken to be {groups[0]}")
        return Alternative(NUMBERS if groups[0] == "number" else frozenset(groups), alternative.bases)

    def _values(self, alternative: Alternative, values: list[object]) -> list[Expression]:
        options: list[Expression] = []
        for value in values:
            if self._literals.fits(alternative, value):
                options.extend(Literal(text) for text in dict.fromkeys((write_json(value), *_short_number(value))))
        return options

    def _typed(self, alternative: Alternative) -> list[Expression]:
        types, bases = alternative.types, alternative.bases
        options: list[Expression] = []
        if "object" in types:
            options.append(self._objects.expression(bases) if _speaks(bases, "object") else self._text.any_object())
        if "array" in types:
            options.append(self._arrays.expression(bases) if _speaks(bases, "array") else self._text.any_array())
        if "string" in types:
            options.append(self._strings.value(string_facts(bases, self._report)))
        if types & NUMBERS:
            if "integer" not in types:
                self._report.add(bases[0].pointer, "type", "integers are not told apart from other numbers")
            options.append(self._numbers.expression(bases, integers_only="fraction" not in types))
        options.extend(Literal(word) for word in self._words(types, bases))
        return options

    def _words(self, types: frozenset[str], bases: tuple[Subschema, ...]) -> list[str]:
        excluded = {canonical_json(value) for base in bases for value in base.keywords.get(EXCLUDED, ())}
        if any(_is_unfollowed(text, types) for text in excluded):
            self._report.add(bases[0].pointer, "not", "this value is not left out")
        words = (["true", "false"] if "boolean" in types else []) + (["null"] if "null" in types else [])
        return [word for word in words if word not in excluded]


def _speaks(bases: tuple[Subschema, ...], group: str) -> bool:
    return any(not _GROUPS[group].isdisjoint(base.keywords) for base in bases)


def _is_unfollowed(text: str, types: frozenset[str]) -> bool:
    """Whether an excluded value (as canonical text) has a type that cannot leave single values out here."""
    kind = {"{": "object", "[": "array", '"': "", "t": "", "f": "", "n": ""}.get(text[0], "fraction")
    return kind in types


def _short_number(value: object) -> list[str]:
    """A float that is whole may be written without its fraction."""
    return [canonical_json(value)] if isinstance(value, float) and value.is_integer() else []
