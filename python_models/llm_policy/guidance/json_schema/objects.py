"""Objects as grammar expressions.

Members come in the order in which the schema declares them, and each optional one may be absent. The size of the
grammar is linear in the number of properties. Undeclared names are offered only if the schema asks for them
(`additionalProperties`, `patternProperties`) or declares no names. They are distinguished from the declared names
character by character, so that an escape or a prefix can't disguise a declared name.
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
from llm_policy.guidance.json_schema.member_chain import Member, MemberChain
from llm_policy.guidance.json_schema.normal_form import Conjunction, NormalForm
from llm_policy.guidance.json_schema.string_constraints import PatternSource, StringConstraints, string_constraints
from llm_policy.guidance.json_schema.strings import StringWriter
from llm_policy.guidance.json_schema.subschema import FORBIDDEN, Subschema, keyword_values
from llm_policy.release.guide_limits import GuideLimits

WriteValue = Callable[[Conjunction], Rule]

MAX_COUNTING_RULES = 2_000
"""Limit of rules that count members for minProperties and maxProperties."""


@dataclass
class ObjectConstraints:
    """What one alternative demands of an object; `extras` are its undeclared members."""

    declared: dict[str, Conjunction] = field(default_factory=dict)
    required: dict[str, None] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    extras: list[Expression] = field(default_factory=list)
    min_properties: int = 0
    max_properties: int | None = None
    pointer: str = ""


class ObjectWriter:
    """Writes the objects of one alternative."""

    def __init__(
        self,
        grammar: Grammar,
        strings: StringWriter,
        literals: LiteralFilter,
        normal_form: NormalForm,
        limits: GuideLimits,
        unenforced: KeywordReport,
        narrowed: KeywordReport,
        write_value: WriteValue,
    ) -> None:
        self._grammar = grammar
        self._strings = strings
        self._literals = literals
        self._normal_form = normal_form
        self._limits = limits
        self._unenforced = unenforced
        self._narrowed = narrowed
        self._write_value = write_value
        self._num_chains = 0

    def expression(self, subschemas: tuple[Subschema, ...]) -> Expression:
        """An object with its braces; NOTHING if the keywords contradict each other."""
        constraints = self._declared(subschemas)
        if constraints.forbidden & set(constraints.required):
            return NOTHING
        self._add_extras(constraints, subschemas)
        content = self._content(constraints)
        return wrapped("{", content, "}")

    def _declared(self, subschemas: tuple[Subschema, ...]) -> ObjectConstraints:
        constraints = ObjectConstraints(pointer=subschemas[0].pointer if subschemas else "")
        for subschema in subschemas:
            keywords = subschema.keywords
            constraints.forbidden.update(keywords.get(FORBIDDEN, ()))
            constraints.required.update(dict.fromkeys(keywords.get("required", ())))
            constraints.min_properties = max(constraints.min_properties, keywords.get("minProperties", 0))
            if "maxProperties" in keywords:
                limits = (constraints.max_properties, keywords["maxProperties"])
                constraints.max_properties = min(limit for limit in limits if limit is not None)
        names = [name for subschema in subschemas for name in subschema.keywords.get("properties", ())]
        for name in dict.fromkeys([*names, *constraints.required]):
            if name not in constraints.forbidden and self._name_is_allowed(name, subschemas):
                constraints.declared[name] = _member_conjunction(name, subschemas)
            elif name in constraints.required:
                constraints.forbidden.add(name)
        return constraints

    def _name_is_allowed(self, name: str, subschemas: Iterable[Subschema]) -> bool:
        rules = keyword_values(subschemas, "propertyNames")
        return all(self._literals.conjunction_allows((rule,), name) for rule in rules)

    def _add_extras(self, constraints: ObjectConstraints, subschemas: tuple[Subschema, ...]) -> None:
        closed = [subschema for subschema in subschemas if _is_closed(subschema)]
        patterned = [subschema for subschema in subschemas if subschema.keywords.get("patternProperties")]
        if any(subschema not in patterned for subschema in closed):
            return
        rest = tuple(s for subschema in subschemas for s in _rest_schemas(subschema))
        has_rest_schema = bool(rest)
        names = self._name_constraints(subschemas, constraints, is_closed=bool(closed))
        if names is None:
            return
        names = replace(names, excluded=names.excluded | set(constraints.declared) | constraints.forbidden)
        declares = any(subschema.keywords.get("properties") for subschema in subschemas)
        offers_rest = not closed and (has_rest_schema or not (declares or patterned))
        if names.excluded and (patterned or offers_rest) and not self._strings.can_exclude_names():
            self._narrowed.add(constraints.pointer, "additionalProperties", "undeclared names are not offered")
            return
        if patterned:
            self._add_patterned(constraints, patterned, names, rest)
        if offers_rest:
            self._add_rest(constraints, patterned, names, rest)

    def _name_constraints(
        self, subschemas: tuple[Subschema, ...], constraints: ObjectConstraints, *, is_closed: bool
    ) -> StringConstraints | None:
        """The constraints of propertyNames. If it lists the names, they become declared, and the result is None."""
        rules = tuple(keyword_values(subschemas, "propertyNames"))
        if not rules:
            return StringConstraints(pointer=constraints.pointer)
        found = [alternative for alternative in self._normal_form.alternatives(rules) if "string" in alternative.types]
        values = [listed_values(alternative) for alternative in found]
        if all(value is not None for value in values):
            if not is_closed:
                names = [name for value in values for name in value or ()]
                self._declare_listed(constraints, names, subschemas, rules)
            return None
        if len(found) == 1:
            return string_constraints(found[0].subschemas, self._unenforced)
        self._unenforced.add(constraints.pointer, "propertyNames", "several alternatives for names")
        return StringConstraints(pointer=constraints.pointer)

    def _declare_listed(
        self,
        constraints: ObjectConstraints,
        names: list[object],
        subschemas: tuple[Subschema, ...],
        rules: Conjunction,
    ) -> None:
        for name in names:
            if not isinstance(name, str) or name in constraints.forbidden:
                continue
            if self._literals.conjunction_allows(rules, name):
                constraints.declared.setdefault(name, _member_conjunction(name, subschemas))

    def _add_patterned(
        self, constraints: ObjectConstraints, patterned: list[Subschema], names: StringConstraints, rest: Conjunction
    ) -> None:
        entries = [(b, p, s) for b in patterned for p, s in b.keywords["patternProperties"].items()]
        if len(entries) > 1:
            self._unenforced.add(
                constraints.pointer, "patternProperties", "a name that matches two patterns follows only one"
            )
        others = tuple(s for s in rest if s not in {e for b in patterned for e in _rest_schemas(b)})
        for subschema, pattern, schema in entries:
            source = PatternSource(subschema.pointer, "patternProperties", pattern)
            key = self._strings.key(replace(names, sources=(*names.sources, source)))
            constraints.extras.append(sequence(key, self._write_value((schema, *others))))

    def _add_rest(
        self, constraints: ObjectConstraints, patterned: list[Subschema], names: StringConstraints, rest: Conjunction
    ) -> None:
        if any(subschema.keywords["patternProperties"] for subschema in patterned):
            self._unenforced.add(
                constraints.pointer, "patternProperties", "patterns are not enforced together with other names"
            )
        constraints.extras.append(sequence(self._strings.key(names), self._write_value(rest)))

    def _content(self, constraints: ObjectConstraints) -> Expression:
        extra = choice(*constraints.extras)
        members = [
            Member(sequence(Literal(write_json(name) + ":"), self._write_value(schemas)), name in constraints.required)
            for name, schemas in constraints.declared.items()
        ]
        if not members:
            return self._only_extras(extra, constraints)
        if self._must_count(members, extra, constraints):
            return self._counted(members, extra, constraints)
        return self._chain(members, extra, allow_empty=constraints.min_properties == 0)

    def _only_extras(self, extra: Expression, constraints: ObjectConstraints) -> Expression:
        max_properties = constraints.max_properties
        if max_properties is not None and max_properties > self._limits.max_repeat:
            max_properties = None
        return listed(extra, min(constraints.min_properties, self._limits.max_repeat), max_properties)

    def _must_count(self, members: list[Member], extra: Expression, constraints: ObjectConstraints) -> bool:
        num_required = sum(member.is_required for member in members)
        min_holds = constraints.min_properties <= max(num_required, 1)
        max_holds = constraints.max_properties is None or (
            extra == NOTHING and constraints.max_properties >= len(members)
        )
        if min_holds and max_holds:
            return False
        max_written = (
            constraints.max_properties if constraints.max_properties is not None else constraints.min_properties
        )
        if (
            len(members) * min(max_written, len(members) + 1) <= MAX_COUNTING_RULES
            and max_written <= MAX_COUNTING_RULES
        ):
            return True
        self._unenforced.add(constraints.pointer, "minProperties/maxProperties", "too many members to count")
        return False

    def _chain(self, members: list[Member], extra: Expression, *, allow_empty: bool) -> Expression:
        self._num_chains += 1
        return MemberChain(self._grammar, f"o{self._num_chains}_", members, extra).expression(allow_empty=allow_empty)

    def _counted(self, members: list[Member], extra: Expression, constraints: ObjectConstraints) -> Expression:
        """Exact counts: one rule per (members considered, members written)."""
        self._num_chains += 1
        prefix = f"k{self._num_chains}_"
        max_written = (
            constraints.max_properties if constraints.max_properties is not None else constraints.min_properties
        )
        for written in range(max_written + 1):
            self._grammar.define(f"{prefix}{len(members)}_{written}", _remaining_extras(extra, written, constraints))
        for i in range(len(members) - 1, -1, -1):
            for written in range(min(i, max_written) + 1):
                step = _counted_step(prefix, i, written, members[i], constraints, max_written)
                self._grammar.define(f"{prefix}{i}_{written}", step)
        return Rule(f"{prefix}0_0")


def _remaining_extras(extra: Expression, written: int, constraints: ObjectConstraints) -> Expression:
    """Undeclared members after `written` other members."""
    min_properties = max(constraints.min_properties - written, 0)
    max_properties = None if constraints.max_properties is None else constraints.max_properties - written
    if written == 0:
        return listed(extra, min_properties, max_properties)
    return repeat(sequence(Literal(","), extra), min_properties, max_properties)


def _counted_step(
    prefix: str, i: int, written: int, member: Member, constraints: ObjectConstraints, max_written: int
) -> Expression:
    options: list[Expression] = []
    if constraints.max_properties is None or written < max_written:
        comma = Literal(",") if written else EMPTY
        options.append(sequence(comma, member.text, Rule(f"{prefix}{i + 1}_{min(written + 1, max_written)}")))
    if not member.is_required:
        options.append(Rule(f"{prefix}{i + 1}_{written}"))
    return choice(*options)


def _is_closed(subschema: Subschema) -> bool:
    """Whether only declared names are allowed. Members of other branches count as evaluated, which allows more."""
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in subschema.keywords and subschema.keywords[keyword].is_false:
            return True
    return False


def _rest_schemas(subschema: Subschema) -> list[Subschema]:
    if "additionalProperties" in subschema.keywords:
        return [subschema.keywords["additionalProperties"]]
    return [subschema.keywords["unevaluatedProperties"]] if "unevaluatedProperties" in subschema.keywords else []


def _member_conjunction(name: str, subschemas: tuple[Subschema, ...]) -> Conjunction:
    return tuple(s for subschema in subschemas for s in _member_schemas(subschema, name, subschemas))


def _member_schemas(subschema: Subschema, name: str, subschemas: tuple[Subschema, ...]) -> list[Subschema]:
    """As in the validator; unevaluatedProperties applies to names that no branch declares."""
    found = member_schemas(subschema, name)
    if not found and "unevaluatedProperties" in subschema.keywords and not _is_declared(name, subschemas):
        found.append(subschema.keywords["unevaluatedProperties"])
    return found


def _is_declared(name: str, subschemas: tuple[Subschema, ...]) -> bool:
    return any(
        name in subschema.keywords.get("properties", ())
        or "additionalProperties" in subschema.keywords
        or any(is_found(pattern, name) for pattern in subschema.keywords.get("patternProperties", ()))
        for subschema in subschemas
    )
