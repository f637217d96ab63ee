"""Writes a grammar as EBNF in the dialect of XGrammar 0.1.21 and later."""

from __future__ import annotations

from collections.abc import Iterator

from llm_policy.guidance.grammar.grammar import Choice, Expression, Grammar, Repeat, Rule, Sequence, references
from llm_policy.guidance.grammar.repeats import lower_repeats
from llm_policy.guidance.limits import check_limit
from llm_policy.release.guide_limits import GuideLimits

NOTHING_FOLLOWS = r'(= "\u0001")'
"""A lookahead: what follows the rule starts with this text. XGrammar rejects a token that goes on otherwise when it
compiles; without it the token is checked each time a mask is computed."""


def write_ebnf(grammar: Grammar, limits: GuideLimits, *, copy_classes: bool) -> str:
    """The grammar's text, its repeats lowered (see `lower_repeats` for `copy_classes`); changes the grammar.

    Raises:
        InvalidRequest: `schema_too_complex`, the grammar is too large for the engine.
    """
    lower_repeats(grammar, copy_classes=copy_classes)
    check_limit("number of grammar rules", len(grammar.rules), limits.max_rules)
    text = _with_lookaheads(grammar)
    check_limit("grammar size in bytes", len(text.encode()), limits.max_grammar_bytes)
    return text


def _with_lookaheads(grammar: Grammar) -> str:
    """The text, with a lookahead for each rule that ends the output."""
    final = final_rules(grammar)
    lines = []
    for line in grammar.text().splitlines():
        name, _, expression = line.partition(" ::= ")
        lines.append(f"{name} ::= ({expression}) {NOTHING_FOLLOWS}" if name in final else line)
    return "\n".join(lines) + "\n"


def final_rules(grammar: Grammar) -> set[str]:
    """The rules after which the output ends, except the root."""
    inner: set[str] = set()
    pending = [name for expression in grammar.rules.values() for name in _not_last(expression)]
    while pending:
        name = pending.pop()
        if name not in inner:
            inner.add(name)
            pending.extend(references(grammar.rules[name]))
    return set(grammar.rules) - inner - {grammar.root}


def _not_last(expression: Expression) -> Iterator[str]:
    """References that something may follow within the expression."""
    if isinstance(expression, Rule):
        return
    if isinstance(expression, Choice):
        for option in expression.options:
            yield from _not_last(option)
    elif isinstance(expression, Sequence) and expression.parts:
        for part in expression.parts[:-1]:
            yield from references(part)
        yield from _not_last(expression.parts[-1])
    elif isinstance(expression, Repeat) and expression.max_count == 1:
        yield from _not_last(expression.part)
    else:
        yield from references(expression)
