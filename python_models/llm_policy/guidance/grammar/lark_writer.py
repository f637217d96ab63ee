"""Writes a grammar as Lark text in llguidance's dialect.

A regular grammar becomes one terminal, which llguidance matches without its parser, so that counts and alternatives
cost nothing while a token mask is computed. Any other grammar becomes rules over lexemes. The lexer is greedy, so the
lexemes are chosen among three divisions, and the first one that loses no text is taken: the tokens of JSON, the
largest regular parts of the rules, single characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    references,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.greedy_lexing import separates_greedily
from llm_policy.guidance.grammar.json_lexemes import JsonLexemes, NotJson
from llm_policy.guidance.grammar.lexeme_grammar import FollowSets, LexemeGrammar, Lower, build
from llm_policy.guidance.grammar.regular_expression import RegularRules
from llm_policy.guidance.grammar.regular_rules import regular_rules, without_tail_recursion
from llm_policy.guidance.grammar.terminal_writer import TerminalWriter, quantifier
from llm_policy.guidance.limits import check_limit
from llm_policy.release.guide_limits import GuideLimits

MAX_RULE_DEPTH = 300
"""References from rule to rule before one that was seen; llguidance overflows a stack of 2 MB at about 650."""
_MAX_NESTING = 10


def write_lark(grammar: Grammar, limits: GuideLimits) -> str:
    """The grammar's text; the grammar stays as it is.

    Raises:
        InvalidRequest: `schema_too_complex`, the grammar is too large or too deep for llguidance.
    """
    check_limit("number of grammar rules", len(grammar.rules), limits.max_rules)
    found = regular_rules(grammar)
    if grammar.root in found:
        lines = ["start: TEXT", *TerminalWriter(found, {"TEXT": found[grammar.root]}).lines]
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
    terminals = TerminalWriter(regular.rules, lexeme_grammar.lexemes).lines
    return [*_RuleWriter(lexeme_grammar).lines, *terminals]


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
    grammar = build(regular, definitions, root, _regular_parts)
    return grammar if separates_greedily(grammar, FollowSets(grammar).result()) else None


def _regular_parts(grammar: LexemeGrammar) -> Lower:
    """Every largest regular part of a rule is one lexeme."""
    covers = grammar.regular.covers

    def lower(expression: Expression) -> Expression:
        if covers(expression):
            return grammar.lexeme(expression)
        if isinstance(expression, Sequence):
            return sequence(*map(lower, runs(expression.parts)))
        if isinstance(expression, Choice):
            together = [option for option in expression.options if covers(option)]
            others = [lower(option) for option in expression.options if not covers(option)]
            return choice(*([grammar.lexeme(choice(*together))] if together else []), *others)
        if isinstance(expression, Repeat):
            return repeat(lower(expression.part), expression.min_count, expression.max_count)
        return expression

    def runs(parts: tuple[Expression, ...]) -> list[Expression]:
        """The parts, adjacent regular ones joined."""
        found: list[Expression] = []
        for part in parts:
            if found and covers(part) and covers(found[-1]):
                found[-1] = sequence(found[-1], part)
            else:
                found.append(part)
        return found

    return lower


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


class _RuleWriter:
    """Writes the rules of a lexeme grammar; `lines` has them, the root first."""

    def __init__(self, grammar: LexemeGrammar) -> None:
        check_limit("nesting depth of the grammar", _depth(grammar.rules, grammar.root), MAX_RULE_DEPTH)
        self._names = {name: f"r{i}" for i, name in enumerate(grammar.rules)}
        self._num_helpers = 0
        self.lines = [f"start: {self._names[grammar.root]}"]
        for name, expression in grammar.rules.items():
            self.lines.append(f"{self._names[name]}: {self._write(expression, 0, 0)}")

    def _write(self, expression: Expression, level: int, nesting: int) -> str:
        """The expression, in parentheses if it binds less tightly than `level`: 0 choice, 1 sequence, 2 one item."""
        if isinstance(expression, Rule):
            return self._names.get(expression.name, expression.name)
        if expression == EMPTY:
            return '""'
        if nesting >= _MAX_NESTING and level:
            return self._helper(expression)
        if isinstance(expression, Repeat):
            mark = quantifier(expression.min_count, expression.max_count)
            text, own_level = self._write(expression.part, 2, nesting + 1) + mark, 1
        elif isinstance(expression, Sequence):
            text, own_level = " ".join(self._write(part, 1, nesting + 1) for part in expression.parts), 1
        elif isinstance(expression, Choice):
            text, own_level = " | ".join(self._write(option, 1, nesting + 1) for option in expression.options), 0
        else:
            raise TypeError("the rules of a lexeme grammar contain no text")
        return f"({text})" if own_level < level else text

    def _helper(self, expression: Expression) -> str:
        """A rule of its own, because llguidance limits the nesting of parentheses."""
        name = f"h{self._num_helpers}"
        self._num_helpers += 1
        self.lines.append(f"{name}: {self._write(expression, 0, 0)}")
        return name


def _depth(rules: Mapping[str, Expression], root: str) -> int:
    """Depth of a search in the order of the text, as llguidance reads the rules."""
    seen = {root}
    path = [_names(rules[root])]
    deepest = 1
    while path:
        name = next(path[-1], None)
        if name is None:
            path.pop()
        elif name in rules and name not in seen:
            seen.add(name)
            path.append(_names(rules[name]))
            deepest = max(deepest, len(path))
    return deepest


def _names(expression: Expression) -> Iterator[str]:
    """The names in the order of the text."""
    return reversed(list(references(expression)))
