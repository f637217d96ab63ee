"""What a string constraint costs the engine, and how to pay less.

XGrammar precomputes one token mask for each state of a rule. A state that takes most characters costs some 27 ms at a
vocabulary of 150,000, one that takes letters 4 ms. Counting by a rule that is referred to (`char{0,200}`) avoids that
at compile time only to pay more for every single token (60 ms and up, with the whole batch waiting): such a rule ends
within nearly every token, so nothing about it can be precomputed. So counts are written out in place while the
budget lasts, and relaxed (and reported) beyond it.
"""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.regex.search import BROAD
from llm_policy.guidance.regex.syntax import Concat, Either, Loop, Match, RegexNode

BROAD_MS = 27.0
LETTERS_MS = 1.5
OTHER_MS = 0.5
FORMAT_MS = 50.0
"""One of the formats' patterns, measured."""
LOOP_FACTOR = 2
"""How much more a looping state of an automaton costs: it is walked through for most tokens."""
MAX_COPIES = 40
"""Copies of anything but a bare class in one repeat."""
MAX_CLASS_COPIES = 256

_LETTERS = CodeSet.of((0x41, 0x5A), (0x61, 0x7A))


def class_cost_ms(codes: CodeSet) -> float:
    """Milliseconds of one state that takes these characters."""
    if codes.size() > BROAD:
        return BROAD_MS
    return LETTERS_MS if (codes & _LETTERS).size() >= 20 else OTHER_MS


def tree_cost_ms(node: RegexNode) -> float:
    """Milliseconds of a whole tree with its counts written out."""
    if isinstance(node, Match):
        return class_cost_ms(node.codes)
    if isinstance(node, Concat):
        return sum(map(tree_cost_ms, node.parts))
    if isinstance(node, Either):
        return sum(map(tree_cost_ms, node.options))
    if isinstance(node, Loop):
        return tree_cost_ms(node.part) * (node.least + LOOP_FACTOR if node.most is None else max(node.most, 1))
    return 0.0


def relaxed(node: RegexNode, budget_ms: float) -> RegexNode:
    """The tree without the counts that cost more than the budget: they become `*` or `+`, which allows more."""
    if isinstance(node, Concat):
        return Concat(tuple(relaxed(part, budget_ms) for part in node.parts))
    if isinstance(node, Either):
        return Either(tuple(relaxed(option, budget_ms) for option in node.options))
    if not isinstance(node, Loop):
        return node
    count = max(node.least, node.most or 0)
    copies = MAX_CLASS_COPIES if _is_bare(node.part) else MAX_COPIES
    if count > 1 and (count > copies or tree_cost_ms(node) > budget_ms):
        return Loop(relaxed(node.part, budget_ms), min(node.least, 1), None)
    return Loop(relaxed(node.part, budget_ms), node.least, node.most)


def is_simple(node: RegexNode) -> bool:
    """Whether the tree is as good in place as an automaton: single characters repeated, and no broad ones.

    A repeated group would end within many tokens; a broad run with its escapes costs more than one looping state.
    """
    if isinstance(node, Concat):
        return all(map(is_simple, node.parts))
    if isinstance(node, Either):
        return all(map(is_simple, node.options))
    if isinstance(node, Loop):
        return is_simple(node.part) and (isinstance(node.part, Match) or node.most == 1)
    return not isinstance(node, Match) or node.codes.size() <= BROAD


def _is_bare(node: RegexNode) -> bool:
    """A class without characters that JSON escapes."""
    return isinstance(node, Match) and not node.codes & _ESCAPED


_ESCAPED = CodeSet.of((0x00, 0x1F), '"\\')
