"""The automaton of a whole text, if XGrammar compiles it fast enough."""

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


def affordable_dfa(tree: RegexNode, limits: GuideLimits, counting: Counting) -> Dfa | None:
    """The automaton of the tree; None if it is too large or compiles too slowly."""
    max_states = STATES_FACTOR * limits.max_automaton_states
    try:
        dfa = intersect([PatternAutomaton(tree, 16 * max_states)], max_states)
    except TooManyStates:
        return None
    return dfa if dfa.cost_ms() <= string_budget_ms(counting, limits) else None
