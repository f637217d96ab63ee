"""Writes the regular parts of a client's grammar as automata, whose token masks XGrammar precomputes.

A grammar that is regular as a whole becomes one automaton. In any other grammar, the parts of a rule that repeat
something become automata, each together with the regular parts next to it.
"""

from __future__ import annotations

from itertools import groupby

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.code_set import NO_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import (
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    references,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.regular_rules import regular_rules
from llm_policy.guidance.plan.automata_budget import AutomataBudget
from llm_policy.guidance.regex.cost import MAX_COPIES
from llm_policy.guidance.regex.dfa_writer import text_expression
from llm_policy.guidance.regex.syntax import Alternation, Concat, Match, RegexNode, Repetition
from llm_policy.release.guide_limits import GuideLimits

MAX_DEPTH = 100
"""Nesting of a regular part with its rules inserted."""


def with_automata(grammar: Grammar, limits: GuideLimits, counting: Counting) -> Grammar:
    """A grammar for the same texts."""
    return _RegularParts(grammar, limits, counting).written()


class _RegularParts:
    def __init__(self, grammar: Grammar, limits: GuideLimits, counting: Counting) -> None:
        self._source = grammar
        self._grammar = Grammar(grammar.root)
        self._budget = AutomataBudget(limits, counting)
        self._trees: dict[str, RegexNode] = {}
        self._depths: dict[str, int] = {}
        self._repeats: set[str] = set()
        for name, expression in regular_rules(grammar).items():
            self._add(name, expression)

    def _add(self, name: str, expression: Expression) -> None:
        """Add the tree of a regular rule, unless it nests too deeply."""
        if not self._is_regular(expression):
            return
        depth = self._depth(expression)
        if depth <= MAX_DEPTH:
            self._depths[name] = depth
            self._trees[name] = self._tree(expression)
            if self._has_repeat(expression):
                self._repeats.add(name)

    def written(self) -> Grammar:
        root = self._grammar.root
        if root in self._trees:
            whole = self._automaton(Rule(root))
            if whole is not None:
                self._grammar.define(root, whole)
                return self._grammar
        self._grammar.rules.update(self._source.rules)
        for name, expression in self._source.rules.items():
            if name not in self._trees or name == root:
                self._grammar.rules[name] = self._rewritten(expression)
        self._grammar.prune()
        return self._grammar

    def _automaton(self, expression: Expression) -> Expression | None:
        dfa = self._budget.dfa(self._tree(expression))
        return None if dfa is None else text_expression(dfa, self._grammar)

    def _rewritten(self, expression: Expression) -> Expression:
        if self._is_regular(expression):
            whole = self._automaton(expression) if self._has_repeat(expression) else None
            return expression if whole is None else whole
        if isinstance(expression, Choice):
            return choice(*map(self._rewritten, expression.options))
        if isinstance(expression, Repeat):
            return repeat(self._rewritten(expression.part), expression.min_count, expression.max_count)
        if not isinstance(expression, Sequence):
            return expression
        runs = [(is_regular, sequence(*run)) for is_regular, run in groupby(expression.parts, self._is_regular)]
        return sequence(*(self._rewritten(run) if is_regular else self._parts(run) for is_regular, run in runs))

    def _parts(self, run: Expression) -> Expression:
        """A run of parts that are not regular, each rewritten."""
        parts = run.parts if isinstance(run, Sequence) else (run,)
        return sequence(*map(self._rewritten, parts))

    def _is_regular(self, expression: Expression) -> bool:
        return all(name in self._trees for name in references(expression))

    def _has_repeat(self, expression: Expression) -> bool:
        """Whether it repeats more than a few copies, or anything but single characters."""
        if isinstance(expression, Rule):
            return expression.name in self._repeats
        if isinstance(expression, Repeat):
            count = max(expression.min_count, expression.max_count or 0)
            if count > MAX_COPIES or (expression.max_count != 1 and not isinstance(expression.part, Chars | Literal)):
                return True
            return self._has_repeat(expression.part)
        return any(map(self._has_repeat, _children(expression)))

    def _depth(self, expression: Expression) -> int:
        if isinstance(expression, Rule):
            return self._depths[expression.name]
        return 1 + max(map(self._depth, _children(expression)), default=0)

    def _tree(self, expression: Expression) -> RegexNode:
        if isinstance(expression, Rule):
            return self._trees[expression.name]
        if isinstance(expression, Literal):
            return Concat(tuple(Match(CodeSet.of(character)) for character in expression.text))
        if isinstance(expression, Chars):
            return Match(expression.codes)
        if isinstance(expression, Repeat):
            return Repetition(self._tree(expression.part), expression.min_count, expression.max_count)
        parts = tuple(map(self._tree, _children(expression)))
        if isinstance(expression, Choice):
            return Alternation(parts) if parts else Match(NO_CODE)
        return Concat(parts)


def _children(expression: Expression) -> tuple[Expression, ...]:
    if isinstance(expression, Sequence):
        return expression.parts
    if isinstance(expression, Choice):
        return expression.options
    return (expression.part,) if isinstance(expression, Repeat) else ()
