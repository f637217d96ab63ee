"""String constraints that hold together, as one grammar expression.

A single pattern or format is written as it stands; lengths are counted characters; where several constraints meet,
their automata are walked side by side. When that grows too large the first one is kept and the rest reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llm_policy.guidance.grammar.code_set import EVERY_CODE, NO_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import NOTHING, Expression, Literal, Rule, sequence
from llm_policy.guidance.grammar.json_text import PLAIN, JsonText
from llm_policy.guidance.json_schema.formats import ASSERTED_WITHOUT_PATTERN, FORMAT_PATTERNS
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.subschema import EXCLUDED, Subschema
from llm_policy.guidance.regex.automaton import (
    ApartAutomaton,
    Automaton,
    LengthAutomaton,
    PatternAutomaton,
    TooManyStates,
    combine,
)
from llm_policy.guidance.regex.cost import BROAD_MS, FORMAT_MS, is_simple, relaxed, tree_cost_ms
from llm_policy.guidance.regex.pattern_text import TableText, pattern_expression, written_out
from llm_policy.guidance.regex.search import full_match, length_range
from llm_policy.guidance.regex.syntax import (
    Concat,
    Loop,
    Match,
    RegexFault,
    RegexNode,
    RegexTooComplex,
    feature_gaps,
    parse_regex,
)
from llm_policy.release.guide_limits import GuideLimits

_FORMAT_LIMITS = GuideLimits(max_regex_bytes=100_000, max_regex_depth=64, max_regex_positions=100_000)


@dataclass(frozen=True)
class StringFacts:
    """Everything one alternative says about a string; `sources` are (pointer, keyword, regex)."""

    least: int = 0
    most: int | None = None
    sources: tuple[tuple[str, str, str], ...] = ()
    excluded: frozenset[str] = frozenset()
    pointer: str = ""


def string_facts(bases: Iterable[Subschema], report: KeywordReport) -> StringFacts:
    """Gathered from the subschemas of one alternative."""
    least, most, pointer = 0, None, ""
    sources: dict[str, tuple[str, str, str]] = {}
    excluded: set[str] = set()
    for base in bases:
        words = base.keywords
        least = max(least, words.get("minLength", 0))
        if "maxLength" in words:
            most = words["maxLength"] if most is None else min(most, words["maxLength"])
        if "minLength" in words or "maxLength" in words:
            pointer = base.pointer
        if "pattern" in words:
            sources.setdefault(words["pattern"], (base.pointer, "pattern", words["pattern"]))
        if words.get("format") in FORMAT_PATTERNS:
            pattern = FORMAT_PATTERNS[words["format"]]
            sources.setdefault(pattern, (base.pointer, "format", pattern))
        elif words.get("format") in ASSERTED_WITHOUT_PATTERN:
            report.add(base.pointer, "format", "this format has no grammar")
        excluded.update(value for value in words.get(EXCLUDED, ()) if isinstance(value, str))
    return StringFacts(least, most, tuple(sources.values()), frozenset(excluded), pointer)


class StringWriter:
    """Writes string constraints into one grammar, each distinct set of them once."""

    def __init__(self, text: JsonText, limits: GuideLimits, report: KeywordReport) -> None:
        self._text = text
        self._limits = limits
        self._report = report
        self._written: dict[tuple[StringFacts, Expression], Expression] = {}
        self._left_ms: float = limits.max_string_cost_ms
        self._trees: dict[str, RegexNode | None] = {}

    def value(self, facts: StringFacts) -> Expression:
        """A string with its quotes."""
        return self._expression(facts, Literal('"'))

    def key(self, facts: StringFacts) -> Expression:
        """A member name with its quotes and the colon."""
        return self._expression(facts, Literal('":'))

    def _expression(self, facts: StringFacts, tail: Expression) -> Expression:
        if facts.most is not None and facts.least > facts.most:
            return NOTHING
        key = (facts, tail)
        if key not in self._written:
            content = self._content(facts, tail)
            name = f"s{len(self._written)}"
            self._written[key] = (
                content
                if isinstance(content, Rule) or content == NOTHING
                else (self._text.grammar.define(name, content))
            )
        return self._written[key]

    def _content(self, facts: StringFacts, tail: Expression) -> Expression:
        trees = [tree for source in facts.sources if (tree := self._tree(source)) is not None]
        if not trees and not facts.excluded:
            return self._counted(facts, tail)
        if len(trees) == 1 and not facts.excluded:
            simple = _within(trees[0], facts, self._limits)
            if simple is not None and (is_simple(simple) or facts.sources[0][1] == "format"):
                return self._plain(simple, facts, tail)
        try:
            return self._joined(trees, facts, tail)
        except TooManyStates:
            return self._fallback(trees, facts, tail)

    def can_tell_apart(self) -> bool:
        """Whether there is budget left to keep undeclared names apart from declared ones."""
        return self._left_ms > BROAD_MS

    def _plain(self, tree: RegexNode, facts: StringFacts, tail: Expression) -> Expression:
        """One pattern as it stands, its counts relaxed where they cost too much."""
        pointer, keyword, _ = facts.sources[0]
        cheaper = tree if keyword == "format" else relaxed(tree, self._left_ms / 2)
        cost = FORMAT_MS if keyword == "format" else tree_cost_ms(cheaper)
        if cost > self._left_ms:
            self._report.add(pointer, keyword, "too many patterns that take any character")
            return self._counted(facts, tail)
        if cheaper != tree:
            self._report.add(pointer, keyword, "its counts are not followed to the end")
        self._left_ms -= cost
        return sequence(Literal('"'), written_out(pattern_expression(cheaper)), tail)

    def _counted(self, facts: StringFacts, tail: Expression) -> Expression:
        """A length and nothing else: written out while the budget lasts, then counted, then reported."""
        least, most = facts.least, facts.most
        if (least, most) == (0, None):
            return self._text.any_string() if tail == Literal('"') else self._text.any_key()
        grown = 0 if most is None else max(most - least - self._text.longest_run(tail), 0)
        cost = BROAD_MS * (least + grown)
        if cost <= self._left_ms / 2:
            self._left_ms -= cost
            return self._text.bounded_string(least, most, tail)
        limit = self._limits.max_counted_length
        if most is not None and most > limit:
            self._report.add(facts.pointer, "maxLength", f"longer than {limit} characters is not counted")
        if least > limit:
            self._report.add(facts.pointer, "minLength", f"longer than {limit} characters is not counted")
        most = None if most is not None and most > limit else most
        if most is None and least <= 1:
            return self._text.bounded_string(least, None, tail)
        return self._text.counted_string(min(least, limit), most, tail)

    def _joined(self, trees: list[RegexNode], facts: StringFacts, tail: Expression) -> Expression:
        limit = self._limits.max_automaton_states
        automata: list[Automaton] = [PatternAutomaton(tree, 16 * limit) for tree in trees]
        if (facts.least, facts.most) != (0, None):
            automata.append(LengthAutomaton(facts.least, facts.most))
        if facts.excluded:
            automata.append(self._apart(facts.excluded, PLAIN if tail != Literal('"') else EVERY_CODE))
        table = combine(automata, limit)
        cost = table.cost_ms()
        if trees and cost > self._left_ms:
            raise TooManyStates
        self._left_ms -= cost
        content = TableText(table, self._text, tail).expression()
        return sequence(Literal('"'), content)

    def _apart(self, names: frozenset[str], alphabet: CodeSet) -> ApartAutomaton:
        """As deep as a share of the states left allows; the first letter always."""
        share = max(int(self._left_ms / 3 / BROAD_MS), 1)
        depth = max(map(len, names)) + 1
        while depth > 1 and ApartAutomaton.num_states(names, depth) > share:
            depth -= 1
        return ApartAutomaton(names, depth, alphabet)

    def _fallback(self, trees: list[RegexNode], facts: StringFacts, tail: Expression) -> Expression:
        pointer = facts.sources[0][0] if facts.sources else facts.pointer
        if not trees:
            self._report.add(pointer, "not", "too many excluded values")
            return self._counted(facts, tail)
        for source in facts.sources[1:]:
            self._report.add(source[0], source[1], "too large beside another pattern")
        if (facts.least, facts.most) != (0, None) and _within(trees[0], facts, self._limits) is None:
            self._report.add(facts.pointer, "minLength/maxLength", "too large beside a pattern")
        if facts.excluded:
            self._report.add(pointer, "not", "too large beside a pattern")
        cheaper = relaxed(trees[0], self._left_ms / 2)
        try:
            return self._joined([cheaper], StringFacts(), tail)
        except TooManyStates:
            return self._plain(trees[0], facts, tail)
        finally:
            if cheaper != trees[0]:
                self._report.add(pointer, facts.sources[0][1], "its counts are not followed to the end")

    def _tree(self, source: tuple[str, str, str]) -> RegexNode | None:
        """The full-match tree of a pattern; None, and a finding, when it cannot be followed."""
        pointer, keyword, pattern = source
        if pattern not in self._trees:
            self._trees[pattern] = self._parse(pattern, keyword)
        tree = self._trees[pattern]
        if tree is None:
            self._report.add(pointer, keyword, "this pattern is not followed")
        else:
            for feature in feature_gaps(tree):
                self._report.add(pointer, keyword, f"{feature} is left out")
        return tree

    def _parse(self, pattern: str, keyword: str) -> RegexNode | None:
        try:
            return full_match(parse_regex(pattern, _FORMAT_LIMITS if keyword == "format" else self._limits))
        except (RegexFault, RegexTooComplex):
            return None


def _within(tree: RegexNode, facts: StringFacts, limits: GuideLimits) -> RegexNode | None:
    """The tree with the length bounds worked in, where that needs no automaton; otherwise None."""
    shortest, longest = length_range(tree)
    if facts.least <= shortest and (facts.most is None or (longest is not None and longest <= facts.most)):
        return tree
    if facts.most is not None and facts.most > limits.max_repeat:
        return None
    parts = tree.parts if isinstance(tree, Concat) else (tree,)
    *head, last = parts or (Concat(()),)
    fixed = length_range(Concat(tuple(head)))
    if not (isinstance(last, Loop) and isinstance(last.part, Match) and fixed[0] == fixed[1]):
        return None
    return _shortened(tuple(head), last, fixed[0], facts)


def _shortened(head: tuple[RegexNode, ...], last: Loop, width: int, facts: StringFacts) -> RegexNode:
    """A head of fixed width and a run of characters, the run's count cut to the length bounds."""
    least = max(last.least, facts.least - width)
    tops = [top for top in (last.most, None if facts.most is None else facts.most - width) if top is not None]
    most = min(tops, default=None)
    if most is not None and most < least:
        return Match(NO_CODE)
    return Concat((*head, Loop(last.part, least, most)))
