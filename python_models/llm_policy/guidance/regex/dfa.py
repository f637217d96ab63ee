"""A deterministic automaton as a finite table."""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.regex.cost import class_cost_ms


@dataclass(frozen=True)
class Dfa:
    """A trimmed deterministic automaton: state 0 is the start, and an accepting state is reachable from every state.

    Without rows it accepts no string.
    """

    rows: tuple[tuple[tuple[CodeSet, int], ...], ...]
    """The transitions of each state."""
    accepting: frozenset[int]

    def cost_ms(self) -> float:
        """Estimated compile time of the states."""
        return sum(class_cost_ms(CodeSet.joined(codes for codes, _ in row)) for row in self.rows)
