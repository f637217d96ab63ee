"""How many counts (lengths of strings, repeats) a plan writes into the grammar.

A token mask of XGrammar takes some 100 ms inside a counted repeat that ends within nearly every token, because nothing
can be precomputed there. The whole batch waits for it. Counts that are written out, one rule for each, cost compile
time instead.
"""

from __future__ import annotations

from enum import Enum, auto


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
