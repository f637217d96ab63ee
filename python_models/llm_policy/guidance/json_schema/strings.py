"""String constraints as grammar expressions.

A single pattern or format is written directly; a length is a count of characters; several constraints become the
intersection of their automata. If that is too large, only the first pattern is enforced and the rest is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.code_set import EVERY_CODE, NO_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import NOTHING, Expression, Literal, Rule, sequence
from llm_policy.guidance.grammar.json_text import PLAIN, JsonText
from llm_policy.guidance.json_schema.formats import ASSERTED_WITHOUT_PATTERN, FORMAT_PATTERNS
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.subschema import EXCLUDED, Subschema
from llm_policy.guidance.regex.automaton import Automaton, ExclusionAutomaton, LengthAutomaton, TooManyStates
from llm_policy.guidance.regex.cost import BROAD_MS, FORMAT_MS, is_simple, relaxed, tree_cost_ms
from llm_policy.guidance.regex.dfa import intersect
from llm_policy.guidance.regex.dfa_writer import DfaWriter
from llm_policy.guidance.regex.pattern_automaton import PatternAutomaton
from llm_policy.guidance.regex.pattern_expression import pattern_expression, unrolled
from llm_policy.guidance.regex.search import full_match, length_range
from llm_policy.guidance.regex.syntax import (
    Concat,
    InvalidRegex,
    Match,
    RegexNode,
    RegexTooComplex,
    Repetition,
    parse_regex,
    unsupported_features,
)
from llm_policy.release.guide_limits import GuideLimits

_FORMAT_LIMITS = GuideLimits(max_regex_bytes=100_000, max_regex_depth=64, max_regex_positions=100_000)


class PatternSource(NamedTuple):
    """A regex and the keyword from which it comes."""

    pointer: str
    keyword: str
    regex: str


@dataclass(frozen=True)
class StringConstraints:
    """What one alternative demands of a string."""

    min_length: int = 0
    max_length: int | None = None
    sources: tuple[PatternSource, ...] = ()
    excluded: frozenset[str] = frozenset()
    pointer: str = ""


def string_constraints(subschemas: Iterable[Subschema], unenforced: KeywordReport) -> StringConstraints:
    """The string constraints of all subschemas of one alternative together."""
    min_length, max_length, pointer = 0, None, ""
    sources: dict[str, PatternSource] = {}
    excluded: set[str] = set()
    for subschema in subschemas:
        keywords = subschema.keywords
        min_length = max(min_length, keywords.get("minLength", 0))
        if "maxLength" in keywords:
            max_length = keywords["maxLength"] if max_length is None else min(max_length, keywords["maxLength"])
        if "minLength" in keywords or "maxLength" in keywords:
            pointer = subschema.pointer
        if "pattern" in keywords:
            sources.setdefault(keywords["pattern"], PatternSource(subschema.pointer, "pattern", keywords["pattern"]))
        if keywords.get("format") in FORMAT_PATTERNS:
            pattern = FORMAT_PATTERNS[keywords["format"]]
            sources.setdefault(pattern, PatternSource(subschema.pointer, "format", pattern))
        elif keywords.get("format") in ASSERTED_WITHOUT_PATTERN:
            unenforced.add(subschema.pointer, "format", "no grammar for this format")
        excluded.update(value for value in keywords.get(EXCLUDED, ()) if isinstance(value, str))
    return StringConstraints(min_length, max_length, tuple(sources.values()), frozenset(excluded), pointer)


class StringWriter:
    """Writes the strings of one grammar, each distinct set of constraints once."""

    def __init__(self, text: JsonText, limits: GuideLimits, counting: Counting, unenforced: KeywordReport) -> None:
        self._text = text
        self._counting = counting
        self._limits = limits
        self._unenforced = unenforced
        self._written: dict[tuple[StringConstraints, Expression], Expression] = {}
        self._budget_ms: float = limits.max_string_cost_ms
        self._trees: dict[str, RegexNode | None] = {}

    def value(self, constraints: StringConstraints) -> Expression:
        """A string, with its quotes."""
        return self._expression(constraints, Literal('"'))

    def key(self, constraints: StringConstraints) -> Expression:
        """A member name, with its quotes and colon."""
        return self._expression(constraints, Literal('":'))

    def _expression(self, constraints: StringConstraints, tail: Expression) -> Expression:
        if constraints.max_length is not None and constraints.min_length > constraints.max_length:
            return NOTHING
        key = (constraints, tail)
        if key not in self._written:
            content = self._content(constraints, tail)
            name = f"s{len(self._written)}"
            needs_rule = not isinstance(content, Rule) and content != NOTHING
            self._written[key] = self._text.grammar.define(name, content) if needs_rule else content
        return self._written[key]

    def _content(self, constraints: StringConstraints, tail: Expression) -> Expression:
        trees = [tree for source in constraints.sources if (tree := self._tree(source)) is not None]
        if not trees and not constraints.excluded:
            return self._counted(constraints, tail)
        if len(trees) == 1 and not constraints.excluded:
            bounded_tree = _with_length_bounds(trees[0], constraints, self._limits)
            if bounded_tree is not None and (is_simple(bounded_tree) or constraints.sources[0].keyword == "format"):
                return self._single_pattern(bounded_tree, constraints, tail)
        try:
            return self._intersection(trees, constraints, tail)
        except TooManyStates:
            return self._approximation(trees, constraints, tail)

    def can_exclude_names(self) -> bool:
        """Whether the budget is enough to distinguish undeclared names from declared ones."""
        return self._budget_ms > BROAD_MS

    def _single_pattern(self, tree: RegexNode, constraints: StringConstraints, tail: Expression) -> Expression:
        """One pattern written directly, its counts relaxed where they cost too much."""
        pointer, keyword, _ = constraints.sources[0]
        relaxed_tree = tree if keyword == "format" else relaxed(tree, self._budget_ms / 2)
        cost = FORMAT_MS if keyword == "format" else tree_cost_ms(relaxed_tree)
        if cost > self._budget_ms:
            self._unenforced.add(pointer, keyword, "too many patterns that accept any character")
            return self._counted(constraints, tail)
        if relaxed_tree != tree:
            self._unenforced.add(pointer, keyword, "its counts are only partly enforced")
        self._budget_ms -= cost
        return sequence(Literal('"'), unrolled(pattern_expression(relaxed_tree)), tail)

    def _counted(self, constraints: StringConstraints, tail: Expression) -> Expression:
        """A length alone: unrolled while the budget lasts, else counted by reference, else reported."""
        min_length, max_length = constraints.min_length, constraints.max_length
        if (min_length, max_length) == (0, None):
            return self._text.any_string() if tail == Literal('"') else self._text.any_key()
        num_new = 0 if max_length is None else max(max_length - min_length - self._text.longest_chain(tail), 0)
        cost = BROAD_MS * (min_length + num_new)
        if cost <= self._budget_ms / 2:
            self._budget_ms -= cost
            return self._text.bounded_string(min_length, max_length, tail)
        limit = self._limits.max_counted_length
        if max_length is not None and max_length > limit:
            self._unenforced.add(constraints.pointer, "maxLength", f"more than {limit} characters are not counted")
        if min_length > limit:
            self._unenforced.add(constraints.pointer, "minLength", f"more than {limit} characters are not counted")
        max_length = None if max_length is not None and max_length > limit else max_length
        if max_length is None and min_length <= 1:
            return self._text.bounded_string(min_length, None, tail)
        return self._text.counted_string(min(min_length, limit), max_length, tail)

    def _intersection(self, trees: list[RegexNode], constraints: StringConstraints, tail: Expression) -> Expression:
        limit = self._limits.max_automaton_states
        automata: list[Automaton] = [PatternAutomaton(tree, 16 * limit) for tree in trees]
        if (constraints.min_length, constraints.max_length) != (0, None):
            automata.append(LengthAutomaton(constraints.min_length, constraints.max_length))
        if constraints.excluded:
            automata.append(self._exclusion(constraints.excluded, PLAIN if tail != Literal('"') else EVERY_CODE))
        dfa = intersect(automata, limit)
        cost = dfa.cost_ms()
        if trees and cost > self._budget_ms:
            raise TooManyStates
        self._budget_ms -= cost
        content = DfaWriter(dfa, self._text, tail).expression()
        return sequence(Literal('"'), content)

    def _exclusion(self, names: frozenset[str], alphabet: CodeSet) -> ExclusionAutomaton:
        """Compares as many characters as a third of the budget allows, at least one."""
        share = max(int(self._budget_ms / 3 / BROAD_MS), 1)
        depth = max(map(len, names)) + 1
        while depth > 1 and ExclusionAutomaton.num_states(names, depth) > share:
            depth -= 1
        return ExclusionAutomaton(names, depth, alphabet)

    def _approximation(self, trees: list[RegexNode], constraints: StringConstraints, tail: Expression) -> Expression:
        """Only the first pattern, relaxed where it costs too much; everything else is reported."""
        pointer = constraints.sources[0].pointer if constraints.sources else constraints.pointer
        if not trees:
            self._unenforced.add(pointer, "not", "too many excluded values")
            return self._counted(constraints, tail)
        for source in constraints.sources[1:]:
            self._unenforced.add(source.pointer, source.keyword, "too large together with another pattern")
        has_length = (constraints.min_length, constraints.max_length) != (0, None)
        if has_length and _with_length_bounds(trees[0], constraints, self._limits) is None:
            self._unenforced.add(constraints.pointer, "minLength/maxLength", "too large together with a pattern")
        if constraints.excluded:
            self._unenforced.add(pointer, "not", "too large together with a pattern")
        relaxed_tree = relaxed(trees[0], self._budget_ms / 2)
        try:
            return self._intersection([relaxed_tree], StringConstraints(), tail)
        except TooManyStates:
            return self._single_pattern(trees[0], constraints, tail)
        finally:
            if relaxed_tree != trees[0]:
                self._unenforced.add(pointer, constraints.sources[0].keyword, "its counts are only partly enforced")

    def _tree(self, source: PatternSource) -> RegexNode | None:
        """The full-match tree of a pattern; None, and a finding, if it can't be parsed."""
        pointer, keyword, pattern = source
        if pattern not in self._trees:
            self._trees[pattern] = self._parse(pattern, keyword)
        tree = self._trees[pattern]
        if tree is None:
            self._unenforced.add(pointer, keyword, "this pattern is not enforced")
        else:
            for feature in unsupported_features(tree):
                self._unenforced.add(pointer, keyword, f"{feature} is ignored")
        return tree

    def _parse(self, pattern: str, keyword: str) -> RegexNode | None:
        try:
            return full_match(parse_regex(pattern, _FORMAT_LIMITS if keyword == "format" else self._limits))
        except (InvalidRegex, RegexTooComplex):
            return None


def _with_length_bounds(tree: RegexNode, constraints: StringConstraints, limits: GuideLimits) -> RegexNode | None:
    """The tree restricted to the length bounds if that needs no automaton; otherwise None."""
    shortest, longest = length_range(tree)
    if constraints.min_length <= shortest and (
        constraints.max_length is None or (longest is not None and longest <= constraints.max_length)
    ):
        return tree
    if constraints.max_length is not None and constraints.max_length > limits.max_repeat:
        return None
    parts = tree.parts if isinstance(tree, Concat) else (tree,)
    *head, last = parts or (Concat(()),)
    fixed = length_range(Concat(tuple(head)))
    if not (isinstance(last, Repetition) and isinstance(last.part, Match) and fixed[0] == fixed[1]):
        return None
    return _with_bounded_run(tuple(head), last, fixed[0], constraints)


def _with_bounded_run(
    head: tuple[RegexNode, ...], last: Repetition, width: int, constraints: StringConstraints
) -> RegexNode:
    """A head of fixed width and a run of characters whose count fits the length bounds."""
    min_count = max(last.min_count, constraints.min_length - width)
    longest = None if constraints.max_length is None else constraints.max_length - width
    max_count = min((count for count in (last.max_count, longest) if count is not None), default=None)
    if max_count is not None and max_count < min_count:
        return Match(NO_CODE)
    return Concat((*head, Repetition(last.part, min_count, max_count)))
