"""How many counts (lengths of strings, repeats) a plan writes into the grammar.

A token mask of XGrammar takes some 100 ms inside a counted repeat that ends within nearly every token, because nothing
can be precomputed there. The whole batch waits for it. Counts that are written out, one rule for each, cost compile
time instead.
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf

from llm_policy.release.guide_limits import GuideLimits

_CHEAPER = 4
_GENEROUS = 4


class Counting(Enum):
    """From the most exact to the cheapest."""

    EXACT = auto()
    """Every count as it is: for llguidance, whose masks don't depend on counts."""
    WRITTEN_OUT = auto()
    """Counts written out, however long they compile: for XGrammar and registered schemas, which compile in warm-up."""
    BOUNDED = auto()
    """Counts written out as far as the compile time of an ad-hoc guide allows; the others are reported."""
    NONE = auto()
    """No counts beyond a few copies: the last try before a guide is rejected."""


def string_budget_ms(counting: Counting, limits: GuideLimits) -> float:
    """Estimated compile time that the patterns, lengths and undeclared names of one schema may take."""
    if counting is Counting.EXACT:
        return inf
    if counting is Counting.WRITTEN_OUT:
        return limits.max_registered_string_cost_ms
    return limits.max_string_cost_ms / (1 if counting is Counting.BOUNDED else _CHEAPER)


def max_automaton_states(counting: Counting, limits: GuideLimits) -> int:
    """States of one automaton. More for guides whose states cost nothing, or whose compile time does not matter."""
    is_generous = counting in (Counting.EXACT, Counting.WRITTEN_OUT)
    return limits.max_automaton_states * (_GENEROUS if is_generous else 1)
