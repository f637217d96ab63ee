"""Automata of texts, as many as XGrammar compiles fast enough."""

from __future__ import annotations

from llm_policy.guidance.counting import Counting, string_budget_ms
from llm_policy.guidance.regex.automaton import TooManyStates
from llm_policy.guidance.regex.dfa import Dfa
from llm_policy.guidance.regex.intersection import intersect
from llm_policy.guidance.regex.pattern_automaton import PatternAutomaton
from llm_policy.guidance.regex.syntax import RegexNode
from llm_policy.release.guide_limits import GuideLimits

STATES_FACTOR = 4
"""A guide has one text, but a schema many strings: its automaton may have this many times the states of theirs."""
BUDGET_FACTOR = 1.25
"""A schema has other parts to compile, but a text only its automata."""


class AutomataBudget:
    """The compile time that the automata of one guide may take."""

    def __init__(self, limits: GuideLimits, counting: Counting) -> None:
        self._left_ms = BUDGET_FACTOR * string_budget_ms(counting, limits)
        self._max_states = STATES_FACTOR * limits.max_automaton_states

    def dfa(self, tree: RegexNode) -> Dfa | None:
        """The automaton of the tree; None if it is too large or compiles too slowly."""
        try:
            dfa = intersect([PatternAutomaton(tree, 16 * self._max_states)], self._max_states)
        except TooManyStates:
            return None
        cost = dfa.cost_ms()
        if cost > self._left_ms:
            return None
        self._left_ms -= cost
        return dfa
