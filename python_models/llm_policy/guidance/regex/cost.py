"""Estimated compile cost of string constraints, and cheaper approximations.

XGrammar precomputes one token mask for each state of a rule. With a vocabulary of 150,000 a state that accepts most
characters costs some 25 ms, one that accepts letters 3 ms, and the masks of these states then take 0.1 ms at decode
time. A counted reference to a rule (`char{0,200}`) costs nothing at compile time, but 100 ms and more for every token,
and the whole batch waits: such a rule ends within nearly every token, so nothing can be precomputed. Copies of a class
in one rule (`[a-z]{0,200}`) are precomputed, but the matcher is then in all of them at once: up to 10 ms. Therefore
constraints of strings become deterministic automata, one rule for each state, while the budget lasts; beyond it counts
are relaxed and reported.
"""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.regex.search import BROAD
from llm_policy.guidance.regex.syntax import Alternation, Concat, Match, RegexNode, Repetition

BROAD_MS = 27.0
LETTER_MS = 0.13
"""Cost of a state for each ASCII letter that it accepts."""
SPACE_FACTOR = 2.2
"""Cost factor of a state that accepts letters and the space, with which half of all tokens start."""
OTHER_MS = 0.05
MAX_COPIES = 4
"""Copies of one character that a rule may contain."""
RUN_FACTOR = 2
FORMAT_MS = 50.0
"""Measured cost of one format's pattern."""

_LETTERS = CodeSet.of((0x41, 0x5A), (0x61, 0x7A))
_MANY_LETTERS = 20
_SPACE = 0x20


def class_cost_ms(codes: CodeSet) -> float:
    """Cost of one state that accepts these characters."""
    if codes.size() > BROAD:
        return BROAD_MS
    num_letters = (codes & _LETTERS).size()
    is_spaced = num_letters >= _MANY_LETTERS and _SPACE in codes
    return OTHER_MS + LETTER_MS * num_letters * (SPACE_FACTOR if is_spaced else 1.0)


def tree_cost_ms(node: RegexNode) -> float:
    """Cost of a whole tree with its counts written out."""
    if isinstance(node, Match):
        return class_cost_ms(node.codes)
    if isinstance(node, Concat):
        return sum(map(tree_cost_ms, node.parts))
    if isinstance(node, Alternation):
        return sum(map(tree_cost_ms, node.options))
    if isinstance(node, Repetition):
        return tree_cost_ms(node.part) * max(node.min_count + 1 if node.max_count is None else node.max_count, 1)
    return 0.0


def in_place_cost_ms(node: RegexNode) -> float | None:
    """Cost of a tree in one rule; None if its masks may be slow there.

    In one rule the matcher is in several places at once. That is fast as long as only single characters repeat.
    """
    if isinstance(node, Concat | Alternation):
        costs = [in_place_cost_ms(part) for part in (node.parts if isinstance(node, Concat) else node.options)]
        return None if None in costs else sum(cost for cost in costs if cost is not None)
    if not isinstance(node, Repetition):
        return tree_cost_ms(node)
    if (node.min_count, node.max_count) == (0, 1):
        return in_place_cost_ms(node.part)
    if not isinstance(node.part, Match) or max(node.min_count, node.max_count or 0) > MAX_COPIES:
        return None
    # the character in place, and again behind each escape
    return (max(node.min_count, node.max_count or 0) + RUN_FACTOR) * tree_cost_ms(node.part)


def relaxed(node: RegexNode, budget_ms: float) -> RegexNode:
    """The tree with each count that costs more than the budget replaced by `*` or `+`, which match more."""
    if isinstance(node, Concat):
        return Concat(tuple(relaxed(part, budget_ms) for part in node.parts))
    if isinstance(node, Alternation):
        return Alternation(tuple(relaxed(option, budget_ms) for option in node.options))
    if not isinstance(node, Repetition):
        return node
    part = relaxed(node.part, budget_ms)
    if max(node.min_count, node.max_count or 0) > 1 and tree_cost_ms(node) > budget_ms:
        return Repetition(part, min(node.min_count, 1), None)
    return Repetition(part, node.min_count, node.max_count)
