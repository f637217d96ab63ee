"""A context-free grammar as a value: expressions, rules, pruning, and the EBNF text that XGrammar reads.

Expressions are immutable and shallow; everything deep or recursive goes through a named rule. Pruning removes
what can never be completed (an option whose rule has no finite text), so an unsatisfiable schema is seen here
and not as a dead end in the engine.
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
    """Whatever the named rule matches."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """All parts, one after the other."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of the options; no option at all is NOTHING, which no text matches."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The part, `least` to `most` times (None: no limit)."""

    part: Expression
    least: int
    most: int | None


Expression = Literal | Chars | Rule | Sequence | Choice | Repeat

EMPTY = Sequence(())
NOTHING = Choice(())


def sequence(*parts: Expression) -> Expression:
    """Concatenation: flattened, neighbouring literals joined, NOTHING swallows all."""
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


def choice(*options: Expression) -> Expression:
    """Alternation: flattened, without repetitions."""
    flat: dict[Expression, None] = {}
    for option in options:
        for piece in option.options if isinstance(option, Choice) else (option,):
            flat[piece] = None
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeat(part: Expression, least: int, most: int | None) -> Expression:
    """`part{least,most}`. A count below zero or a maximum under the minimum matches nothing."""
    if most is not None and most < least:
        return NOTHING
    if most == 0 or part == EMPTY:
        return EMPTY
    if part == NOTHING:
        return EMPTY if least == 0 else NOTHING
    return part if least == most == 1 else Repeat(part, least, most)


def optional(part: Expression) -> Expression:
    """`part?`."""
    return repeat(part, 0, 1)


def references(expression: Expression) -> Iterator[str]:
    """Names of the rules that the expression mentions."""
    waiting = [expression]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Rule):
            yield item.name
        elif isinstance(item, Sequence):
            waiting.extend(item.parts)
        elif isinstance(item, Choice):
            waiting.extend(item.options)
        elif isinstance(item, Repeat):
            waiting.append(item.part)


UNREACHABLE = inf


def shortest_length(expression: Expression, known: dict[str, float]) -> float:
    """Characters of the shortest text that matches, given those of the `known` rules; infinite when there is none."""
    if isinstance(expression, Literal):
        return len(expression.text)
    if isinstance(expression, Rule):
        return known.get(expression.name, UNREACHABLE)
    if isinstance(expression, Sequence):
        return sum(shortest_length(part, known) for part in expression.parts)
    if isinstance(expression, Choice):
        return min((shortest_length(option, known) for option in expression.options), default=UNREACHABLE)
    if isinstance(expression, Repeat):
        return shortest_length(expression.part, known) * expression.least if expression.least else 0
    return 1


def pruned(expression: Expression, productive: Set[str]) -> Expression:
    """The expression without the options that can never be completed."""
    if isinstance(expression, Rule):
        return expression if expression.name in productive else NOTHING
    if isinstance(expression, Sequence):
        return sequence(*(pruned(part, productive) for part in expression.parts))
    if isinstance(expression, Choice):
        kept = (pruned(option, productive) for option in expression.options)
        return choice(*(option for option in kept if option != NOTHING))
    if isinstance(expression, Repeat):
        return repeat(pruned(expression.part, productive), expression.least, expression.most)
    return expression


class Grammar:
    """Named rules and the root among them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.rules: dict[str, Expression] = {}

    def define(self, name: str, expression: Expression) -> Rule:
        """Set the rule's expression; returns a reference to it."""
        self.rules[name] = expression
        return Rule(name)

    def shortest_lengths(self) -> dict[str, float]:
        """Length of the shortest text of every rule that has one (Knuth's generalisation of Dijkstra's algorithm)."""
        users: dict[str, list[str]] = defaultdict(list)
        for name, expression in self.rules.items():
            for used in set(references(expression)):
                users[used].append(name)
        known: dict[str, float] = {}
        waiting = [(shortest_length(expression, known), name) for name, expression in self.rules.items()]
        waiting = [entry for entry in waiting if entry[0] != UNREACHABLE]
        heapify(waiting)
        while waiting:
            length, name = heappop(waiting)
            if name in known:
                continue
            known[name] = length
            for user in users[name]:
                if user not in known and (longer := shortest_length(self.rules[user], known)) != UNREACHABLE:
                    heappush(waiting, (longer, user))
        return known

    def prune(self) -> bool:
        """Keep what can be completed and reached. False when the root matches no text at all."""
        productive = self.shortest_lengths().keys()
        if self.root not in productive:
            return False
        kept: dict[str, Expression] = {}
        waiting = [self.root]
        while waiting:
            name = waiting.pop()
            if name not in kept:
                kept[name] = pruned(self.rules[name], productive)
                waiting.extend(references(kept[name]))
        self.rules = {name: kept[name] for name in self.rules if name in kept}
        return True

    def text(self) -> str:
        """EBNF in the dialect of XGrammar 0.1.21 and later, the root first."""
        names = [self.root, *(name for name in self.rules if name != self.root)]
        return "\n".join(f"{name} ::= {_write(self.rules[name], 0)}" for name in names) + "\n"


_CHOICE, _SEQUENCE, _ATOM = 0, 1, 2


def _write(expression: Expression, level: int) -> str:
    """EBNF of the expression inside a context that binds as tightly as `level`."""
    if isinstance(expression, Literal):
        return write_literal(expression.text)
    if isinstance(expression, Chars):
        return expression.codes.ebnf()
    if isinstance(expression, Rule):
        return expression.name
    if isinstance(expression, Repeat):
        part = _write(expression.part, _ATOM)
        part = f"({part})" if isinstance(expression.part, Repeat) else part
        return part + _quantifier(expression.least, expression.most)
    if isinstance(expression, Sequence):
        return _bracketed(" ", expression.parts, _SEQUENCE, level)
    return _bracketed(" | ", expression.options, _CHOICE, level)


def _bracketed(glue: str, items: Iterable[Expression], own: int, level: int) -> str:
    text = glue.join(_write(item, own + 1) for item in items)
    return (f"({text})" if level > own else text) if text else '""'


def _quantifier(least: int, most: int | None) -> str:
    marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    if (least, most) in marks:
        return marks[least, most]
    return f"{{{least},{'' if most is None else most}}}" if least != most else f"{{{least}}}"


@lru_cache(maxsize=4096)
def write_literal(text: str) -> str:
    """The text as an EBNF string."""
    return '"' + "".join(map(_write_code, map(ord, text))) + '"'


def _write_code(code: int) -> str:
    if code in (0x22, 0x5C):
        return "\\" + chr(code)
    if 0x20 <= code < 0x7F:
        return chr(code)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
