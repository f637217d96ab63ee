"""Writes the rules of a lexeme grammar as Lark text (llguidance's dialect)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_policy.guidance.grammar.grammar import EMPTY, Choice, Expression, Repeat, Rule, Sequence
from llm_policy.guidance.grammar.lexeme_grammar import LexemeGrammar
from llm_policy.guidance.grammar.terminal_writer import quantifier

_MAX_NESTING = 10
"""Parentheses in parentheses; llguidance rejects about 25."""

_CHOICE, _SEQUENCE, _ATOM = 0, 1, 2


class RuleWriter:
    """Writes the rules; `lines` has them, the root first, `depth` their nesting through all names."""

    def __init__(self, grammar: LexemeGrammar) -> None:
        self.depth = _depth(grammar.rules, grammar.root)
        self._names = {name: f"r{i}" for i, name in enumerate(grammar.rules)}
        self._num_helpers = 0
        self.lines = [f"start: {self._names[grammar.root]}"]
        for name, expression in grammar.rules.items():
            self.lines.append(f"{self._names[name]}: {self._write(expression, _CHOICE, 0)}")

    def _write(self, expression: Expression, level: int, nesting: int) -> str:
        """The expression, in parentheses if it binds less tightly than `level`."""
        if isinstance(expression, Rule):
            return self._names.get(expression.name, expression.name)
        if expression == EMPTY:
            return '""'
        if nesting >= _MAX_NESTING and level:
            return self._helper(expression)
        if isinstance(expression, Repeat):
            mark = quantifier(expression.min_count, expression.max_count)
            text, own_level = self._write(expression.part, _ATOM, nesting + 1) + mark, _SEQUENCE
        else:
            separator, own_level = (" ", _SEQUENCE) if isinstance(expression, Sequence) else (" | ", _CHOICE)
            text = separator.join(self._write(item, _SEQUENCE, nesting + 1) for item in _items(expression))
        return f"({text})" if own_level < level else text

    def _helper(self, expression: Expression) -> str:
        """A rule of its own, because llguidance limits the nesting of parentheses."""
        name = f"h{self._num_helpers}"
        self._num_helpers += 1
        self.lines.append(f"{name}: {self._write(expression, _CHOICE, 0)}")
        return name


def _items(expression: Expression) -> tuple[Expression, ...]:
    if isinstance(expression, Sequence):
        return expression.parts
    if isinstance(expression, Choice):
        return expression.options
    raise TypeError("the rules of a lexeme grammar contain no text")


def _depth(rules: Mapping[str, Expression], root: str) -> int:
    """Deepest nesting in the order of the text, in which llguidance reads each rule at its first reference."""
    seen = {root}
    path = [(0, _references(rules[root], 1))]
    deepest = 1
    while path:
        base, remaining = path[-1]
        name, depth = next(remaining, ("", 0))
        deepest = max(deepest, base + depth)
        if not name:
            path.pop()
        elif name in rules and name not in seen:
            seen.add(name)
            path.append((base + depth, _references(rules[name], 1)))
    return deepest


def _references(expression: Expression, depth: int) -> Iterator[tuple[str, int]]:
    """The names in the order of the text, and how deep they are nested."""
    if isinstance(expression, Rule):
        yield expression.name, depth
    elif isinstance(expression, Repeat):
        yield from _references(expression.part, depth + 1)
    else:
        for item in _items(expression):
            yield from _references(item, depth + 1)
