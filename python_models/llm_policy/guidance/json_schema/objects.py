"""Objects as grammar expressions.

Members come in the order in which the schema declares them, each optional one present or not: the text grows with the
number of properties, never with the number of combinations. A name that the schema does not declare is offered only
where it says so (`additionalProperties`, `patternProperties`) or declares no names at all, and is then kept apart from
the declared ones letter by letter, so that no escape and no prefix can pass one off as the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    NOTHING,
    Expression,
    Grammar,
    Literal,
    Rule,
    choice,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.json_text import listed, wrapped
from llm_policy.guidance.json_reader import write_json
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.literals import LiteralFilter, is_found, listed_values, member_schemas
from llm_policy.guidance.json_schema.member_chain import MemberChain, Pair
from llm_policy.guidance.json_schema.normal_form import Conjunction, NormalForm
from llm_policy.guidance.json_schema.strings import StringFacts, StringWriter, string_facts
from llm_policy.guidance.json_schema.subschema import FORBIDDEN, Subschema
from llm_policy.release.guide_limits import GuideLimits

WriteValue = Callable[[Conjunction], Rule]

MAX_COUNTED = 2_000
"""Rules spent on counting members for minProperties and maxProperties beside declared ones."""


@dataclass
class Members:
    """What one alternative says about an object's members."""

    declared: dict[str, Conjunction] = field(default_factory=dict)
    required: dict[str, None] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    extras: list[Expression] = field(default_factory=list)
    least: int = 0
    most: int | None = None
    pointer: str = ""


class ObjectWriter:
    """Writes the objects of one alternative."""

    def __init__(
        self,
        grammar: Grammar,
        strings: StringWriter,
        literals: LiteralFilter,
        expansion: NormalForm,
        limits: GuideLimits,
        report: KeywordReport,
        narrowed: KeywordReport,
        write_value: WriteValue,
    ) -> None:
        self._grammar = grammar
        self._strings = strings
        self._literals = literals
        self._expansion = expansion
        self._limits = limits
        self._report = report
        self._narrowed = narrowed
        self._write_value = write_value
        self._chains = 0

    def expression(self, bases: tuple[Subschema, ...]) -> Expression:
        """An object with its braces; NOTHING where the keywords contradict each other."""
        members = self._members(bases)
        if members.forbidden & set(members.required):
            return NOTHING
        self._add_extras(members, bases)
        content = self._content(members)
        return wrapped("{", content, "}")

    # What the subschemas say together

    def _members(self, bases: tuple[Subschema, ...]) -> Members:
        members = Members(pointer=bases[0].pointer if bases else "")
        for base in bases:
            words = base.keywords
            members.forbidden.update(words.get(FORBIDDEN, ()))
            members.required.update(dict.fromkeys(words.get("required", ())))
            members.least = max(members.least, words.get("minProperties", 0))
            if "maxProperties" in words:
                members.most = min(words["maxProperties"], members.most if members.most is not None else 1 << 62)
        names = [name for base in bases for name in base.keywords.get("properties", ())]
        for name in dict.fromkeys([*names, *members.required]):
            if name not in members.forbidden and self._name_is_allowed(name, bases):
                members.declared[name] = tuple(s for base in bases for s in _member_schemas(base, name, bases))
            elif name in members.required:
                members.forbidden.add(name)
        return members

    def _name_is_allowed(self, name: str, bases: Iterable[Subschema]) -> bool:
        rules = [base.keywords["propertyNames"] for base in bases if "propertyNames" in base.keywords]
        return all(self._literals.fits_all((rule,), name) for rule in rules)

    # Undeclared names

    def _add_extras(self, members: Members, bases: tuple[Subschema, ...]) -> None:
        closed = [base for base in bases if _is_closed(base)]
        patterned = [base for base in bases if base.keywords.get("patternProperties")]
        if any(base not in patterned for base in closed):
            return
        rest = tuple(s for base in bases for s in _rest_schemas(base))
        says_more = any(_rest_schemas(base) for base in bases)
        names = self._name_facts(bases, members, rest, closed)
        if names is None:
            return
        names = replace(names, excluded=names.excluded | set(members.declared) | members.forbidden)
        declares = any(base.keywords.get("properties") for base in bases)
        offers_rest = not closed and (says_more or not (declares or patterned))
        if names.excluded and (patterned or offers_rest) and not self._strings.can_tell_apart():
            self._narrowed.add(members.pointer, "additionalProperties", "undeclared names are not offered")
            return
        if patterned:
            self._add_patterned(members, patterned, names, rest)
        if offers_rest:
            self._add_rest(members, patterned, names, rest)

    def _name_facts(
        self, bases: tuple[Subschema, ...], members: Members, rest: Conjunction, closed: list[Subschema]
    ) -> StringFacts | None:
        """What propertyNames says; listed names become declared ones, and then there are no others."""
        rules = tuple(base.keywords["propertyNames"] for base in bases if "propertyNames" in base.keywords)
        if not rules:
            return StringFacts(pointer=members.pointer)
        found = [one for one in self._expansion.alternatives(rules) if "string" in one.types]
        values = [listed_values(one) for one in found]
        if all(value is not None for value in values):
            if not closed:
                self._declare_listed(members, [name for value in values for name in value or ()], rest, bases, rules)
            return None
        if len(found) == 1:
            return string_facts(found[0].bases, self._report)
        self._report.add(members.pointer, "propertyNames", "more than one kind of name")
        return StringFacts(pointer=members.pointer)

    def _declare_listed(
        self, members: Members, names: list[object], rest: Conjunction, bases: tuple[Subschema, ...], rules: Conjunction
    ) -> None:
        for name in names:
            if isinstance(name, str) and name not in members.forbidden and self._literals.fits_all(rules, name):
                schemas = tuple(s for base in bases for s in _member_schemas(base, name, bases))
                members.declared.setdefault(name, schemas)

    def _add_patterned(
        self, members: Members, patterned: list[Subschema], names: StringFacts, rest: Conjunction
    ) -> None:
        entries = [(b, p, s) for b in patterned for p, s in b.keywords["patternProperties"].items()]
        if len(entries) > 1:
            self._report.add(members.pointer, "patternProperties", "a name that two patterns match is held to one")
        others = tuple(s for s in rest if s not in {e for b in patterned for e in _rest_schemas(b)})
        for base, pattern, schema in entries:
            source = (base.pointer, "patternProperties", pattern)
            key = self._strings.key(replace(names, sources=(*names.sources, source)))
            members.extras.append(sequence(key, self._write_value((schema, *others))))

    def _add_rest(self, members: Members, patterned: list[Subschema], names: StringFacts, rest: Conjunction) -> None:
        refused = tuple(p for base in patterned for p in base.keywords["patternProperties"])
        if refused:
            self._report.add(members.pointer, "patternProperties", "beside free names its patterns are not followed")
        members.extras.append(sequence(self._strings.key(names), self._write_value(rest)))

    # The text

    def _content(self, members: Members) -> Expression:
        extra = choice(*members.extras) if members.extras else NOTHING
        pairs = [
            Pair(sequence(Literal(write_json(name) + ":"), self._write_value(schemas)), name in members.required)
            for name, schemas in members.declared.items()
        ]
        if not pairs:
            return self._only_extras(extra, members)
        if self._must_count(pairs, extra, members):
            return self._counted(pairs, extra, members)
        return self._chain(pairs, extra, allow_empty=members.least == 0)

    def _only_extras(self, extra: Expression, members: Members) -> Expression:
        most = members.most
        if most is not None and most > self._limits.max_repeat:
            most = None
        return listed(extra, min(members.least, self._limits.max_repeat), most)

    def _must_count(self, pairs: list[Pair], extra: Expression, members: Members) -> bool:
        required = sum(pair.required for pair in pairs)
        enough = members.least <= max(required, 1)
        few = members.most is None or (extra == NOTHING and members.most >= len(pairs))
        if enough and few:
            return False
        top = members.most if members.most is not None else members.least
        if len(pairs) * min(top, len(pairs) + 1) <= MAX_COUNTED and top <= MAX_COUNTED:
            return True
        self._report.add(members.pointer, "minProperties/maxProperties", "too many members to count")
        return False

    def _chain(self, pairs: list[Pair], extra: Expression, *, allow_empty: bool) -> Expression:
        self._chains += 1
        return MemberChain(self._grammar, f"o{self._chains}_", pairs, extra).expression(allow_empty=allow_empty)

    def _counted(self, pairs: list[Pair], extra: Expression, members: Members) -> Expression:
        """One rule for each (members looked at, members written): exact counts beside declared names."""
        self._chains += 1
        prefix = f"k{self._chains}_"
        top = members.most if members.most is not None else members.least
        for written in range(top + 1):
            self._grammar.define(f"{prefix}{len(pairs)}_{written}", _extras_left(extra, written, members))
        for i in range(len(pairs) - 1, -1, -1):
            for written in range(min(i, top) + 1):
                step = _counted_step(prefix, i, written, pairs[i], members, top)
                self._grammar.define(f"{prefix}{i}_{written}", step)
        return Rule(f"{prefix}0_0")


def _extras_left(extra: Expression, written: int, members: Members) -> Expression:
    """Undeclared members after `written` others."""
    least = max(members.least - written, 0)
    most = None if members.most is None else members.most - written
    if written == 0:
        return listed(extra, least, most)
    return repeat(sequence(Literal(","), extra), least, most)


def _counted_step(prefix: str, i: int, written: int, pair: Pair, members: Members, top: int) -> Expression:
    options: list[Expression] = []
    if members.most is None or written < top:
        comma = Literal(",") if written else EMPTY
        options.append(sequence(comma, pair.text, Rule(f"{prefix}{i + 1}_{min(written + 1, top)}")))
    if not pair.required:
        options.append(Rule(f"{prefix}{i + 1}_{written}"))
    return choice(*options)


def _is_closed(base: Subschema) -> bool:
    """No name beyond the declared ones. Members of other branches count as evaluated, which allows more."""
    for word in ("additionalProperties", "unevaluatedProperties"):
        if word in base.keywords and base.keywords[word].is_false:
            return True
    return False


def _rest_schemas(base: Subschema) -> list[Subschema]:
    if "additionalProperties" in base.keywords:
        return [base.keywords["additionalProperties"]]
    return [base.keywords["unevaluatedProperties"]] if "unevaluatedProperties" in base.keywords else []


def _member_schemas(base: Subschema, name: str, bases: tuple[Subschema, ...]) -> list[Subschema]:
    """As the validator has it; unevaluatedProperties speaks for names that no branch declares."""
    found = member_schemas(base, name)
    if not found and "unevaluatedProperties" in base.keywords and not _is_declared(name, bases):
        found.append(base.keywords["unevaluatedProperties"])
    return found


def _is_declared(name: str, bases: tuple[Subschema, ...]) -> bool:
    return any(
        name in base.keywords.get("properties", ())
        or "additionalProperties" in base.keywords
        or any(is_found(pattern, name) for pattern in base.keywords.get("patternProperties", ()))
        for base in bases
    )
