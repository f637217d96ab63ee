"""String constraints as grammar expressions.

For llguidance lengths and patterns are written as they are. For XGrammar a length is a chain of rules, one for each
character, and everything else a deterministic automaton; both are precomputed. What the budget of compile time does
not allow is approximated and reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_policy.guidance.counting import Counting, max_automaton_states, string_budget_ms
from llm_policy.guidance.grammar.code_set import EVERY_CODE, NO_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import NOTHING, Expression, Grammar, Literal, Rule, sequence
from llm_policy.guidance.grammar.json_text import PLAIN, JsonText
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.string_approximations import (
    Approximation,
    Gap,
    NumberedTree,
    approximations,
    dropped_gaps,
    length_gaps,
)
from llm_policy.guidance.json_schema.string_constraints import PatternSource, StringConstraints
from llm_policy.guidance.regex.automaton import Automaton, ExclusionAutomaton, LengthAutomaton, TooManyStates
from llm_policy.guidance.regex.cost import BROAD_MS, FORMAT_MS, in_place_cost_ms
from llm_policy.guidance.regex.dfa import Dfa
from llm_policy.guidance.regex.dfa_writer import string_expression
from llm_policy.guidance.regex.intersection import intersect
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

SHARE = 0.9
"""Part of the remaining budget that the length or the relaxed pattern of one string may take."""

_FORMAT_LIMITS = GuideLimits(max_regex_bytes=100_000, max_regex_depth=64, max_regex_positions=100_000)


class StringWriter:
    """Writes the strings of one grammar, each distinct set of constraints once."""

    def __init__(self, text: JsonText, limits: GuideLimits, counting: Counting, unenforced: KeywordReport) -> None:
        self._text = text
        self._is_exact = counting is Counting.EXACT
        self._limits = limits
        self._unenforced = unenforced
        self._written: dict[tuple[StringConstraints, Expression], _Written] = {}
        self._budget_ms = string_budget_ms(counting, limits)
        self._max_states = max_automaton_states(counting, limits)
        self._trees: dict[str, RegexNode | None] = {}

    def value(self, constraints: StringConstraints) -> Expression:
        """A string, with its quotes."""
        return self._expression(constraints, Literal('"'))

    def key(self, constraints: StringConstraints) -> Expression:
        """A member name, with its quotes and colon."""
        return self._expression(constraints, Literal('":'))

    def can_exclude_names(self) -> bool:
        """Whether the budget is enough to distinguish undeclared names from declared ones."""
        return self._budget_ms > BROAD_MS

    def _expression(self, constraints: StringConstraints, tail: Expression) -> Expression:
        if constraints.max_length is not None and constraints.min_length > constraints.max_length:
            return NOTHING
        trees = self._parsed_trees(constraints)
        key = (_without_pointers(constraints), tail)
        if key not in self._written:
            written = self._write(trees, constraints, tail)
            if not isinstance(written.expression, Rule) and written.expression != NOTHING:
                written = written.named(self._text.grammar, f"s{len(self._written)}")
            self._written[key] = written
        self._report(self._written[key].gaps, constraints)
        return self._written[key].expression

    def _report(self, gaps: tuple[Gap, ...], constraints: StringConstraints) -> None:
        for gap in gaps:
            pointer = constraints.pointer if gap.source is None else constraints.sources[gap.source].pointer
            self._unenforced.add(pointer, gap.keyword, gap.reason)

    def _write(self, trees: list[NumberedTree], constraints: StringConstraints, tail: Expression) -> _Written:
        if not trees and not constraints.excluded:
            return self._length(constraints, tail)
        if len(trees) == 1 and not constraints.excluded:
            tree = _with_length_bounds(trees[0].tree, constraints, self._limits)
            if tree is not None and (self._is_exact or trees[0].keyword == "format" or self._is_cheaper_in_place(tree)):
                return self._in_place(tree, trees[0].keyword, tail)
        return self._automaton(trees, constraints, tail)

    def _is_cheaper_in_place(self, tree: RegexNode) -> bool:
        """Whether the tree compiles faster in place than as an automaton, and its masks are fast there."""
        cost = in_place_cost_ms(tree)
        if cost is None or cost > self._budget_ms:
            return False
        dfa = self._affordable(Approximation((tree,), 0, None, frozenset(), ()), Literal('"'))
        return dfa is None or cost < dfa.cost_ms()

    def _in_place(self, tree: RegexNode, keyword: str, tail: Expression) -> _Written:
        """One pattern as it is. A format compiles faster in place than as an automaton."""
        cost = FORMAT_MS if keyword == "format" else in_place_cost_ms(tree) or 0.0
        self._budget_ms = max(self._budget_ms - cost, 0.0)
        expression = pattern_expression(tree)
        return _Written(sequence(Literal('"'), expression if self._is_exact else unrolled(expression), tail))

    def _length(self, constraints: StringConstraints, tail: Expression) -> _Written:
        """A length alone. Beyond the budget the maximum is dropped and the minimum reduced, to 1 at least."""
        low, high = constraints.min_length, constraints.max_length
        if high is not None and high > self._limits.max_repeat:
            high = None
        if (low, high) == (0, None):
            return _Written(self._text.any_string() if tail == Literal('"') else self._text.any_key())
        if self._is_exact:
            return _Written(self._text.counted_string(low, high, tail))
        affordable = max(min(int(self._budget_ms * SHARE / BROAD_MS), self._limits.max_counted_length), 1)
        gaps: list[Gap] = []
        is_long = (high or 0) > self._limits.max_counted_length
        if is_long or self._text.num_new_characters(low, high, tail) > affordable:
            gaps = length_gaps(low, high, min(low, affordable))
            low, high = min(low, affordable), None
        self._budget_ms = max(self._budget_ms - BROAD_MS * self._text.num_new_characters(low, high, tail), 0.0)
        if (low, high) == (0, None):
            return _Written(self._text.any_string() if tail == Literal('"') else self._text.any_key(), tuple(gaps))
        return _Written(self._text.bounded_string(low, high, tail), tuple(gaps))

    def _automaton(self, trees: list[NumberedTree], constraints: StringConstraints, tail: Expression) -> _Written:
        """The first approximation whose automaton the budget allows; the last one enforces lengths only."""
        for attempt in approximations(trees, constraints, self._budget_ms * SHARE):
            dfa = self._affordable(attempt, tail)
            if dfa is not None:
                self._budget_ms = max(self._budget_ms - dfa.cost_ms(), 0.0)
                content = string_expression(dfa, self._text, tail)
                return _Written(sequence(Literal('"'), content), attempt.gaps)
        if trees and (self._is_exact or trees[0].keyword == "format"):
            gaps = dropped_gaps(trees[1:], constraints)
            gaps += length_gaps(constraints.min_length, constraints.max_length, 0)
            return _Written(self._in_place(trees[0].tree, trees[0].keyword, tail).expression, tuple(gaps))
        lengths = self._length(constraints, tail)
        return _Written(lengths.expression, (*lengths.gaps, *dropped_gaps(trees, constraints)))

    def _affordable(self, attempt: Approximation, tail: Expression) -> Dfa | None:
        automata: list[Automaton] = []
        try:
            automata.extend(PatternAutomaton(tree, 16 * self._max_states) for tree in attempt.trees)
            if (attempt.min_length, attempt.max_length) != (0, None):
                automata.append(LengthAutomaton(attempt.min_length, attempt.max_length))
            if attempt.excluded:
                automata.append(self._exclusion(attempt.excluded, PLAIN if tail != Literal('"') else EVERY_CODE))
            dfa = intersect(automata, self._max_states)
        except TooManyStates:
            return None
        is_cheap = dfa.cost_ms() <= self._budget_ms or not (attempt.trees or attempt.max_length)
        return dfa if is_cheap else None

    def _exclusion(self, names: frozenset[str], alphabet: CodeSet) -> ExclusionAutomaton:
        """Compares as many characters as a third of the budget allows, at least one."""
        depth = max(map(len, names)) + 1
        if not self._is_exact:
            share = max(int(self._budget_ms / 3 / BROAD_MS), 1)
            while depth > 1 and ExclusionAutomaton.num_states(names, depth) > share:
                depth -= 1
        return ExclusionAutomaton(names, depth, alphabet)

    def _parsed_trees(self, constraints: StringConstraints) -> list[NumberedTree]:
        """The full-match trees of all patterns that can be parsed; the others are reported."""
        trees = []
        for number, source in enumerate(constraints.sources):
            tree = self._tree(source)
            if tree is not None:
                trees.append(NumberedTree(number, source.keyword, tree))
        return trees

    def _tree(self, source: PatternSource) -> RegexNode | None:
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


@dataclass(frozen=True)
class _Written:
    """The strings of one set of constraints, and what they leave out."""

    expression: Expression
    gaps: tuple[Gap, ...] = ()

    def named(self, grammar: Grammar, name: str) -> _Written:
        return _Written(grammar.define(name, self.expression), self.gaps)


def _without_pointers(constraints: StringConstraints) -> StringConstraints:
    sources = tuple(source._replace(pointer="") for source in constraints.sources)
    return replace(constraints, sources=sources, pointer="")


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
