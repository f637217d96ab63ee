"""Regex trees as grammar expressions."""

from __future__ import annotations

from collections.abc import Callable

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    Chars,
    Choice,
    Expression,
    Repeat,
    Sequence,
    choice,
    optional,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.json_text import character, run
from llm_policy.guidance.regex.syntax import Alternation, Concat, Match, RegexNode, Repetition

WriteCharacter = Callable[[CodeSet], Expression]


def pattern_expression(node: RegexNode, write: WriteCharacter = character) -> Expression:
    """The expression of a full-match tree, without quotes, each character written by `write`.

    Unsupported constructs match the empty text.
    """
    if isinstance(node, Match):
        return write(node.codes)
    if isinstance(node, Concat):
        return sequence(*(pattern_expression(part, write) for part in node.parts))
    if isinstance(node, Alternation):
        return choice(*(pattern_expression(option, write) for option in node.options))
    if isinstance(node, Repetition):
        if isinstance(node.part, Match) and node.max_count is None and write is character:
            return sequence(*[character(node.part.codes)] * node.min_count, run(node.part.codes))
        return repeat(pattern_expression(node.part, write), node.min_count, node.max_count)
    return EMPTY


def unrolled(expression: Expression) -> Expression:
    """The expression with counted repeats as copies, except those of a bare class, which XGrammar copies itself."""
    if isinstance(expression, Sequence):
        return sequence(*map(unrolled, expression.parts))
    if isinstance(expression, Choice):
        return choice(*map(unrolled, expression.options)) if expression.options else expression
    if not isinstance(expression, Repeat) or isinstance(expression.part, Chars):
        return expression
    part, min_count, max_count = unrolled(expression.part), expression.min_count, expression.max_count
    if max(min_count, max_count or 0) <= 1:
        return Repeat(part, min_count, max_count)
    tail = repeat(part, 0, None) if max_count is None else EMPTY
    for _ in range(0 if max_count is None else max_count - min_count):
        tail = optional(sequence(part, tail))
    return sequence(*[part] * min_count, tail)
