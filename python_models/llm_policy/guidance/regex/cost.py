"""Estimated compile cost of string constraints, and cheaper approximations.

XGrammar precomputes one token mask per state of a rule. With a vocabulary of 150,000 a state that accepts most
characters costs some 27 ms, one that accepts letters 4 ms. A counted reference to a rule (`char{0,200}`) avoids this
cost at compile time, but costs 60 ms or more for every token, during which the whole batch waits: such a rule ends
within nearly every token, so nothing can be precomputed. Therefore counts are unrolled in place while the budget
lasts; beyond it they are relaxed and reported.
"""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.regex.search import BROAD
from llm_policy.guidance.regex.syntax import Alternation, Concat, Match, RegexNode, Repetition

BROAD_MS = 27.0
LETTERS_MS = 1.5
OTHER_MS = 0.5
FORMAT_MS = 50.0
"""Measured cost of one format's pattern."""
LOOP_FACTOR = 2
"""Cost factor of a looping state of an automaton, which is traversed for most tokens."""
MAX_COPIES = 40
"""Limit of copies in one repeat, except of a bare class."""
MAX_CLASS_COPIES = 256

_LETTERS = CodeSet.of((0x41, 0x5A), (0x61, 0x7A))


def class_cost_ms(codes: CodeSet) -> float:
    """Cost of one state that accepts these characters."""
    if codes.size() > BROAD:
        return BROAD_MS
    return LETTERS_MS if (codes & _LETTERS).size() >= 20 else OTHER_MS


def tree_cost_ms(node: RegexNode) -> float:
    """Cost of a whole tree with its counts unrolled."""
    if isinstance(node, Match):
        return class_cost_ms(node.codes)
    if isinstance(node, Concat):
        return sum(map(tree_cost_ms, node.parts))
    if isinstance(node, Alternation):
        return sum(map(tree_cost_ms, node.options))
    if isinstance(node, Repetition):
        return tree_cost_ms(node.part) * (
            node.min_count + LOOP_FACTOR if node.max_count is None else max(node.max_count, 1)
        )
    return 0.0


def relaxed(node: RegexNode, budget_ms: float) -> RegexNode:
    """The tree with each count that costs more than the budget replaced by `*` or `+`, which match more."""
    if isinstance(node, Concat):
        return Concat(tuple(relaxed(part, budget_ms) for part in node.parts))
    if isinstance(node, Alternation):
        return Alternation(tuple(relaxed(option, budget_ms) for option in node.options))
    if not isinstance(node, Repetition):
        return node
    count = max(node.min_count, node.max_count or 0)
    copies = MAX_CLASS_COPIES if _is_bare(node.part) else MAX_COPIES
    if count > 1 and (count > copies or tree_cost_ms(node) > budget_ms):
        return Repetition(relaxed(node.part, budget_ms), min(node.min_count, 1), None)
    return Repetition(relaxed(node.part, budget_ms), node.min_count, node.max_count)


def is_simple(node: RegexNode) -> bool:
    """Whether the tree is as cheap in place as an automaton: repeats of single characters only, and none broad.

    A repeated group ends within many tokens; a broad run with its escapes costs more than one looping state.
    """
    if isinstance(node, Concat):
        return all(map(is_simple, node.parts))
    if isinstance(node, Alternation):
        return all(map(is_simple, node.options))
    if isinstance(node, Repetition):
        return is_simple(node.part) and (isinstance(node.part, Match) or node.max_count == 1)
    return not isinstance(node, Match) or node.codes.size() <= BROAD


def _is_bare(node: RegexNode) -> bool:
    """Whether the node is a class without characters that JSON escapes."""
    return isinstance(node, Match) and not node.codes & _ESCAPED


_ESCAPED = CodeSet.of((0x00, 0x1F), '"\\')
