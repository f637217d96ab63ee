"""Writes a grammar as Lark text in llguidance's dialect.

A regular grammar becomes one terminal, which llguidance matches without its parser, so that counts and alternatives
cost nothing while a token mask is computed. Any other grammar becomes rules over lexemes. The lexer is greedy, so the
lexemes are chosen so that it loses no text: the tokens of JSON, or the largest regular parts of the rules, divided
further where one would overrun the end of another, or at last single characters.

llguidance bounds the items of its parser: where several rules of an irregular grammar end with each other in turn
(`x ::= a y`, `y ::= b x`), it matches some 2,000 turns. A rule that ends with itself has no such bound.
"""

from __future__ import annotations

from collections.abc import Set

from llm_policy.guidance.grammar.grammar import (
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Sequence,
    choice,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.greedy_lexing import TooManyStates, overrunning_lexemes
from llm_policy.guidance.grammar.json_lexemes import JsonLexemes, NotJson
from llm_policy.guidance.grammar.lexeme_grammar import FollowSets, LexemeGrammar, Lower, build
from llm_policy.guidance.grammar.regular_expression import RegularRules
from llm_policy.guidance.grammar.regular_rules import regular_rules, without_tail_recursion
from llm_policy.guidance.grammar.rule_writer import RuleWriter
from llm_policy.guidance.grammar.terminal_writer import TerminalWriter
from llm_policy.guidance.limits import check_limit
from llm_policy.release.guide_limits import GuideLimits

MAX_DEPTH = 1_000
"""Nesting of the text through all names; llguidance reads it with recursion and overflows 2 MB of stack above 2,000."""

_MAX_DIVISIONS = 12


def write_lark(grammar: Grammar, limits: GuideLimits) -> str:
    """The grammar's text; the grammar stays as it is.

    Raises:
        InvalidRequest: `schema_too_complex`, the grammar is too large or too deep for llguidance.
    """
    check_limit("number of grammar rules", len(grammar.rules), limits.max_rules)
    found = regular_rules(grammar)
    if grammar.root in found:
        terminals = TerminalWriter(found, {"TEXT": found[grammar.root]})
        check_limit("nesting depth of the grammar", terminals.height, MAX_DEPTH)
        lines = ["start: TEXT", *terminals.lines]
    else:
        lines = _irregular(grammar, found)
    text = "\n".join(lines) + "\n"
    check_limit("grammar size in bytes", len(text.encode()), limits.max_grammar_bytes)
    return text


def _irregular(grammar: Grammar, found: dict[str, Expression]) -> list[str]:
    regular = RegularRules(found)
    definitions = {
        name: without_tail_recursion(name, expression)
        for name, expression in grammar.rules.items()
        if name not in regular
    }
    definitions.update(regular.rules)
    lexeme_grammar = _divided(regular, definitions, grammar.root)
    terminals = TerminalWriter(regular.rules, lexeme_grammar.lexemes)
    rules = RuleWriter(lexeme_grammar)
    check_limit("nesting depth of the grammar", rules.depth + terminals.height, MAX_DEPTH)
    return [*rules.lines, *terminals.lines]


def _divided(regular: RegularRules, definitions: dict[str, Expression], root: str) -> LexemeGrammar:
    """The grammar over the first division into lexemes that loses no text."""
    return (
        _json_tokens(regular, definitions, root)
        or _largest_parts(regular, definitions, root)
        or build(regular, definitions, root, _characters)
    )


def _json_tokens(regular: RegularRules, definitions: dict[str, Expression], root: str) -> LexemeGrammar | None:
    lexemes: list[JsonLexemes] = []

    def lowering(grammar: LexemeGrammar) -> Lower:
        lexemes.append(JsonLexemes(grammar))
        return lexemes[0].lower

    try:
        grammar = build(regular, definitions, root, lowering)
    except NotJson:
        return None
    return grammar if lexemes[0].is_exact(FollowSets(grammar).result()) else None


def _largest_parts(regular: RegularRules, definitions: dict[str, Expression], root: str) -> LexemeGrammar | None:
    """The largest regular parts of all rules; those that overrun others are divided, and that is tried again."""
    divided: set[Expression] = set()
    for _ in range(_MAX_DIVISIONS):
        grammar = build(regular, definitions, root, lambda grammar: _RegularParts(grammar, divided).lower)
        try:
            overrunning = overrunning_lexemes(grammar, FollowSets(grammar).result())
        except TooManyStates:
            return None
        if not overrunning:
            return grammar
        divided.update(source for name in overrunning for source in grammar.sources[name])
    return None


class _RegularParts:
    """Makes every largest regular part of a rule one lexeme, except those to be divided further."""

    def __init__(self, grammar: LexemeGrammar, divided: Set[Expression]) -> None:
        self._grammar = grammar
        self._covers = grammar.regular.covers
        self._divided = divided

    def lower(self, expression: Expression) -> Expression:
        """The expression over lexemes."""
        is_regular = self._covers(expression)
        if is_regular and expression not in self._divided:
            return self._grammar.lexeme(expression)
        if isinstance(expression, Literal):
            return sequence(*(self._grammar.lexeme(Literal(character)) for character in expression.text))
        if isinstance(expression, Sequence):
            parts = expression.parts if is_regular else self._runs(expression.parts)
            return sequence(*map(self.lower, parts))
        if isinstance(expression, Choice):
            return self._choice(expression.options, is_regular=is_regular)
        if isinstance(expression, Repeat):
            return repeat(self.lower(expression.part), expression.min_count, expression.max_count)
        return expression

    def _choice(self, options: tuple[Expression, ...], *, is_regular: bool) -> Expression:
        """Regular options become one lexeme together, unless the whole choice is regular and to be divided."""
        together = [] if is_regular else [option for option in options if self._covers(option)]
        others = [option for option in options if is_regular or not self._covers(option)]
        return choice(*([self.lower(choice(*together))] if together else []), *map(self.lower, others))

    def _runs(self, parts: tuple[Expression, ...]) -> list[Expression]:
        """The parts, adjacent regular ones joined."""
        found: list[Expression] = []
        for part in parts:
            if found and self._covers(part) and self._covers(found[-1]):
                found[-1] = sequence(found[-1], part)
            else:
                found.append(part)
        return found


def _characters(grammar: LexemeGrammar) -> Lower:
    """Every character is one lexeme."""

    def lower(expression: Expression) -> Expression:
        if isinstance(expression, Literal):
            return sequence(*(grammar.lexeme(Literal(character)) for character in expression.text))
        if isinstance(expression, Chars):
            return grammar.lexeme(expression)
        if isinstance(expression, Sequence):
            return sequence(*map(lower, expression.parts))
        if isinstance(expression, Choice):
            return choice(*map(lower, expression.options))
        if isinstance(expression, Repeat):
            return repeat(lower(expression.part), expression.min_count, expression.max_count)
        return expression

    return lower
