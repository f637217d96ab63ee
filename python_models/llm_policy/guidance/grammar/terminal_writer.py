"""Writes regular expressions as terminals of a Lark grammar (llguidance's dialect: regexes in Rust's syntax).

A rule that is used once becomes a part of the text; a longer one that is used often becomes a terminal of its own, so
that the text stays linear in the size of the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_policy.guidance.grammar.code_set import EVERY_CODE, LAST_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import (
    Chars,
    Choice,
    Expression,
    Literal,
    Repeat,
    Rule,
    Sequence,
    references,
)

_MAX_REGEX_NESTING = 40
_MAX_LARK_NESTING = 12
"""Parentheses in parentheses; llguidance rejects about 60 and 25."""
_INLINE_LENGTH = 24
"""Characters of a text that is repeated rather than named."""

_CHOICE, _SEQUENCE, _ATOM = 0, 1, 2
_PLAIN = frozenset(" _,:;\"'<>=!@%")


@dataclass(frozen=True, slots=True)
class _Text:
    """A part of a terminal: inside of a regex, or Lark with names in it."""

    text: str
    level: int
    is_regex: bool
    nesting: int = 0
    height: int = 0


class TerminalWriter:
    """Writes terminals; `lines` has their definitions, `height` their nesting through all names."""

    def __init__(self, rules: Mapping[str, Expression], terminals: Mapping[str, Expression]) -> None:
        self.lines: list[str] = []
        self.height = 0
        self._texts: dict[str, _Text] = {}
        self._num_names = 0
        uses = _num_uses(rules, terminals.values())
        for name, expression in rules.items():
            if name in uses:
                written = self._write(expression)
                is_inline = uses[name] == 1 or (written.is_regex and len(written.text) <= _INLINE_LENGTH)
                self._texts[name] = written if is_inline else self._named(written)
        for name, expression in terminals.items():
            self._define(name, self._write(expression))

    def _define(self, name: str, written: _Text) -> None:
        self.height = max(self.height, written.height)
        self.lines.append(f"{name}: {_lark(written)}")

    def _named(self, written: _Text) -> _Text:
        """A reference to a terminal of its own."""
        name = f"S{self._num_names}"
        self._num_names += 1
        self._define(name, written)
        return _Text(name, _ATOM, is_regex=False, height=written.height + 1)

    def _write(self, expression: Expression) -> _Text:
        written = self._unlimited(expression)
        limit = _MAX_REGEX_NESTING if written.is_regex else _MAX_LARK_NESTING
        return self._named(written) if written.nesting >= limit else written

    def _unlimited(self, expression: Expression) -> _Text:
        if isinstance(expression, Literal):
            level = _ATOM if len(expression.text) == 1 else _SEQUENCE
            return _Text("".join(map(_code, map(ord, expression.text))), level, is_regex=True)
        if isinstance(expression, Chars):
            return _Text(_character_class(expression.codes), _ATOM, is_regex=True)
        if isinstance(expression, Rule):
            return self._texts[expression.name]
        if isinstance(expression, Sequence):
            return _sequence([self._write(part) for part in expression.parts])
        if isinstance(expression, Choice):
            return _choice([self._write(option) for option in expression.options])
        return _repeat(self._write(expression.part), expression)


def _num_uses(rules: Mapping[str, Expression], terminals: Iterable[Expression]) -> dict[str, int]:
    """How often each rule occurs in the terminals and in the rules that they need."""
    uses: dict[str, int] = {}
    pending = list(terminals)
    while pending:
        for name in references(pending.pop()):
            if name not in uses:
                pending.append(rules[name])
            uses[name] = uses.get(name, 0) + 1
    return uses


def _lark(written: _Text) -> str:
    if not written.is_regex:
        return written.text
    return f"/{written.text}/" if written.text else '""'


def _within(written: _Text, level: int) -> _Text:
    """The same, in parentheses if it binds less tightly than `level`."""
    if written.level >= level:
        return written
    opening = "(?:" if written.is_regex else "("
    return _Text(f"{opening}{written.text})", _ATOM, written.is_regex, written.nesting + 1, written.height + 1)


def _as_lark(written: _Text, level: int) -> _Text:
    """The same outside of a regex."""
    if not written.is_regex:
        return _within(written, level)
    return _Text(_lark(written), _ATOM, is_regex=False, height=written.height)


def _joined(items: list[_Text], separator: str, level: int, *, is_regex: bool) -> _Text:
    nesting = max((item.nesting for item in items), default=0)
    height = max((item.height + (item.level != level) for item in items), default=0)
    return _Text(separator.join(item.text for item in items), level, is_regex, nesting, height)


def _sequence(parts: list[_Text]) -> _Text:
    runs: list[list[_Text]] = []
    for part in parts:
        if runs and part.is_regex and runs[-1][0].is_regex:
            runs[-1].append(part)
        else:
            runs.append([part])
    texts = [_regex_run(run) if run[0].is_regex else run[0] for run in runs]
    if len(texts) == 1:
        return texts[0]
    if not texts:
        return _Text("", _SEQUENCE, is_regex=True)
    return _joined([_as_lark(text, _SEQUENCE) for text in texts], " ", _SEQUENCE, is_regex=False)


def _regex_run(run: list[_Text]) -> _Text:
    if len(run) == 1:
        return run[0]
    return _joined([_within(part, _SEQUENCE) for part in run], "", _SEQUENCE, is_regex=True)


def _choice(options: list[_Text]) -> _Text:
    regexes = [_within(option, _SEQUENCE) for option in options if option.is_regex]
    others = [_within(option, _SEQUENCE) for option in options if not option.is_regex]
    if len(regexes) > 1:
        regexes = [_joined(regexes, "|", _CHOICE, is_regex=True)]
    texts = [*regexes, *others]
    if len(texts) == 1:
        return texts[0]
    return _joined([_as_lark(text, _SEQUENCE) for text in texts], " | ", _CHOICE, is_regex=False)


def _repeat(part: _Text, expression: Repeat) -> _Text:
    inner = _within(part, _ATOM)
    if part.is_regex and not part.text:
        return part
    text = inner.text + quantifier(expression.min_count, expression.max_count)
    return _Text(text, _SEQUENCE, part.is_regex, inner.nesting, inner.height + 1)


def quantifier(min_count: int, max_count: int | None) -> str:
    """`*`, `+`, `?` or `{m,n}`."""
    marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    if (min_count, max_count) in marks:
        return marks[min_count, max_count]
    return f"{{{min_count},{'' if max_count is None else max_count}}}"


def _character_class(codes: CodeSet) -> str:
    codes &= EVERY_CODE
    if codes.ranges and codes.ranges[-1][1] == LAST_CODE:
        excluded = ~codes
        return "[^" + "".join(map(_range, excluded.ranges)) + "]" if excluded else "(?s:.)"
    return "[" + "".join(map(_range, codes.ranges)) + "]"


def _range(span: tuple[int, int]) -> str:
    low, high = span
    return _code(low) if low == high else f"{_code(low)}-{_code(high)}"


def _code(code: int) -> str:
    character = chr(code)
    return character if character in _PLAIN or (character.isascii() and character.isalnum()) else f"\\x{{{code:X}}}"
