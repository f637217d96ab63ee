"""A context-free grammar: expressions, rules, pruning, and the EBNF text that XGrammar reads.

Expressions are immutable and shallow; deep and recursive structures use named rules. Pruning removes options that can
never be completed (their rule matches no finite text), so an unsatisfiable schema is found here and not as a dead end
in the engine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from math import inf

from llm_policy.guidance.grammar.code_set import CodeSet


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of the set."""

    codes: CodeSet


@dataclass(frozen=True, slots=True)
class Rule:
    """A reference to the named rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """All parts in order."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options; without options it is NOTHING, which matches no text."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The part, `min_count` to `max_count` times (None: unlimited)."""

    part: Expression
    min_count: int
    max_count: int | None


Expression = Literal | Chars | Rule | Sequence | Choice | Repeat

EMPTY = Sequence(())
NOTHING = Choice(())


def sequence(*parts: Expression) -> Expression:
    """The concatenation: flattened, adjacent literals joined; NOTHING if a part is NOTHING."""
    flat: list[Expression] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        for piece in part.parts if isinstance(part, Sequence) else (part,):
            if flat and isinstance(piece, Literal) and isinstance(flat[-1], Literal):
                flat[-1] = Literal(flat[-1].text + piece.text)
            elif piece != Literal(""):
                flat.append(piece)
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def one_of(codes: CodeSet) -> Expression:
    """One character of the set."""
    if not codes:
        return NOTHING
    return Literal(chr(codes.ranges[0][0])) if codes.size() == 1 else Chars(codes)


def choice(*options: Expression) -> Expression:
    """The alternation: flattened, without duplicates and without NOTHING."""
    flat: dict[Expression, None] = {}
    for option in options:
        for piece in option.options if isinstance(option, Choice) else (option,):
            flat[piece] = None
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeat(part: Expression, min_count: int, max_count: int | None) -> Expression:
    """`part{min_count,max_count}`. NOTHING if the maximum is below the minimum."""
    if max_count is not None and max_count < min_count:
        return NOTHING
    if max_count == 0 or part == EMPTY:
        return EMPTY
    if part == NOTHING:
        return EMPTY if min_count == 0 else NOTHING
    return part if min_count == max_count == 1 else Repeat(part, min_count, max_count)


def optional(part: Expression) -> Expression:
    """`part?`."""
    return repeat(part, 0, 1)


def references(expression: Expression) -> Iterator[str]:
    """Names of the rules that the expression refers to."""
    pending = [expression]
    while pending:
        item = pending.pop()
        if isinstance(item, Rule):
            yield item.name
        elif isinstance(item, Sequence):
            pending.extend(item.parts)
        elif isinstance(item, Choice):
            pending.extend(item.options)
        elif isinstance(item, Repeat):
            pending.append(item.part)


UNREACHABLE = inf


def shortest_length(expression: Expression, known: dict[str, float]) -> float:
    """Length of the shortest matching text, given the lengths of the `known` rules; infinite if there is none."""
    if isinstance(expression, Literal):
        return len(expression.text)
    if isinstance(expression, Rule):
        return known.get(expression.name, UNREACHABLE)
    if isinstance(expression, Sequence):
        return sum(shortest_length(part, known) for part in expression.parts)
    if isinstance(expression, Choice):
        return min((shortest_length(option, known) for option in expression.options), default=UNREACHABLE)
    if isinstance(expression, Repeat):
        return shortest_length(expression.part, known) * expression.min_count if expression.min_count else 0
    return 1


def pruned(expression: Expression, productive: Set[str]) -> Expression:
    """The expression without the options whose rules match no finite text."""
    if isinstance(expression, Rule):
        return expression if expression.name in productive else NOTHING
    if isinstance(expression, Sequence):
        return sequence(*(pruned(part, productive) for part in expression.parts))
    if isinstance(expression, Choice):
        kept = (pruned(option, productive) for option in expression.options)
        return choice(*kept)
    if isinstance(expression, Repeat):
        return repeat(pruned(expression.part, productive), expression.min_count, expression.max_count)
    return expression


class Grammar:
    """Named rules, one of which is the root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.rules: dict[str, Expression] = {}

    def define(self, name: str, expression: Expression) -> Rule:
        """Set the rule's expression and return a reference to it."""
        self.rules[name] = expression
        return Rule(name)

    def shortest_lengths(self) -> dict[str, float]:
        """Shortest text length of every rule that matches one (Knuth's generalisation of Dijkstra's algorithm)."""
        users: dict[str, list[str]] = defaultdict(list)
        for name, expression in self.rules.items():
            for used in set(references(expression)):
                users[used].append(name)
        known: dict[str, float] = {}
        pending = [(shortest_length(expression, known), name) for name, expression in self.rules.items()]
        pending = [entry for entry in pending if entry[0] != UNREACHABLE]
        heapify(pending)
        while pending:
            length, name = heappop(pending)
            if name in known:
                continue
            known[name] = length
            for user in users[name]:
                if user not in known and (longer := shortest_length(self.rules[user], known)) != UNREACHABLE:
                    heappush(pending, (longer, user))
        return known

    def prune(self) -> bool:
        """Remove rules and options that can't be completed or reached. False if the root matches no text."""
        productive = self.shortest_lengths().keys()
        if self.root not in productive:
            return False
        kept: dict[str, Expression] = {}
        pending = [self.root]
        while pending:
            name = pending.pop()
            if name not in kept:
                kept[name] = pruned(self.rules[name], productive)
                pending.extend(references(kept[name]))
        self.rules = {name: kept[name] for name in self.rules if name in kept}
        return True

    def text(self) -> str:
        """The grammar as EBNF in the dialect of XGrammar 0.1.21 and later, the root first."""
        names = [self.root, *(name for name in self.rules if name != self.root)]
        return "\n".join(f"{name} ::= {_write(self.rules[name], 0)}" for name in names) + "\n"


_CHOICE, _SEQUENCE, _ATOM = 0, 1, 2


def _write(expression: Expression, level: int) -> str:
    """The expression as EBNF, in parentheses if it binds less tightly than `level`."""
    if isinstance(expression, Literal):
        return write_literal(expression.text)
    if isinstance(expression, Chars):
        return expression.codes.ebnf()
    if isinstance(expression, Rule):
        return expression.name
    if isinstance(expression, Repeat):
        part = _write(expression.part, _ATOM)
        part = f"({part})" if isinstance(expression.part, Repeat) else part
        return part + _quantifier(expression.min_count, expression.max_count)
    if isinstance(expression, Sequence):
        return _parenthesised(" ", expression.parts, _SEQUENCE, level)
    return _parenthesised(" | ", expression.options, _CHOICE, level)


def _parenthesised(separator: str, items: Iterable[Expression], own_level: int, level: int) -> str:
    text = separator.join(_write(item, own_level + 1) for item in items)
    return (f"({text})" if level > own_level else text) if text else '""'


def _quantifier(min_count: int, max_count: int | None) -> str:
    marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    if (min_count, max_count) in marks:
        return marks[min_count, max_count]
    return f"{{{min_count},{'' if max_count is None else max_count}}}" if min_count != max_count else f"{{{min_count}}}"


@lru_cache(maxsize=4096)
def write_literal(text: str) -> str:
    """The text as an EBNF literal."""
    return '"' + "".join(map(_write_code, map(ord, text))) + '"'


def _write_code(code: int) -> str:
    if code in (0x22, 0x5C):
        return "\\" + chr(code)
    if 0x20 <= code < 0x7F:
        return chr(code)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
