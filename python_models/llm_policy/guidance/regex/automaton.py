"""Deterministic automata over the characters of a string: what several constraints allow together.

An automaton is lazy: a start state, the moves of a state, and whether a state may end. Constraints are combined by
walking them side by side, so `pattern` with `maxLength`, two patterns, or "any name but these" are one walk.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet
from llm_policy.guidance.regex.cost import LOOP_FACTOR, class_cost_ms
from llm_policy.guidance.regex.syntax import Concat, Either, Loop, Match, RegexNode

State = Hashable
Moves = list[tuple[CodeSet, State]]


class Automaton(Protocol):
    """A deterministic automaton; a character without a move is a refusal."""

    def start(self) -> State:
        """Where a string begins."""

    def moves(self, state: State) -> Moves:
        """Disjoint character sets and the states they lead to."""

    def accepts(self, state: State) -> bool:
        """Whether the string may end here."""


class LengthAutomaton:
    """`least` to `most` characters (code points, as JSON Schema counts them)."""

    def __init__(self, least: int, most: int | None) -> None:
        self.least = least
        self.most = most

    def start(self) -> State:
        """No character yet."""
        return 0

    def moves(self, state: State) -> Moves:
        """One more, as long as it matters."""
        assert isinstance(state, int)  # noqa: S101 - our own states
        if self.most is not None and state >= self.most:
            return []
        return [(EVERY_CODE, state + 1 if self.most is not None else min(state + 1, self.least))]

    def accepts(self, state: State) -> bool:
        """Enough of them."""
        return isinstance(state, int) and state >= self.least


class ApartAutomaton:
    """Strings that are none of the given names, told apart within the first `depth` characters.

    A string that still looks like a name after `depth` characters is refused, even where it would differ later: every
    state that takes nearly any character costs the engine a walk through its whole vocabulary.
    """

    def __init__(self, names: Iterable[str], depth: int, alphabet: CodeSet) -> None:
        self.names = frozenset(names)
        self.depth = depth
        self.alphabet = alphabet
        self._next: dict[str, set[str]] = {}
        for name in self.names:
            for i, letter in enumerate(name[:depth]):
                self._next.setdefault(name[:i], set()).add(letter)

    @staticmethod
    def num_states(names: Iterable[str], depth: int) -> int:
        """How many prefixes have to be told apart."""
        return len({name[:i] for name in names for i in range(min(len(name) + 1, depth))})

    def start(self) -> State:
        """The empty prefix; None is the state of a string that is no name any more."""
        return ""

    def moves(self, state: State) -> Moves:
        """Along the names, or away from them."""
        if state is None:
            return [(self.alphabet, None)]
        prefix = str(state)
        letters = sorted(self._next.get(prefix, ()))
        away = self.alphabet - CodeSet.of(*letters)
        onward = [(CodeSet.of(letter), prefix + letter) for letter in letters if len(prefix) + 1 < self.depth]
        return [*onward, (away, None)]

    def accepts(self, state: State) -> bool:
        """Anywhere but at the end of a name."""
        return state is None or state not in self.names


@dataclass
class _Knot:
    """A state of the nondeterministic automaton: free moves and moves by character."""

    free: list[int]
    codes: CodeSet | None = None
    target: int = -1


class PatternAutomaton:
    """A full-match regex tree (no anchors) by subset construction; gaps match the empty text."""

    def __init__(self, tree: RegexNode, max_knots: int) -> None:
        self._knots: list[_Knot] = []
        self._max_knots = max_knots
        self._end = self._knot()
        self._start = self._wire(tree, self._end)

    def _knot(self, *free: int) -> int:
        if len(self._knots) >= self._max_knots:
            raise TooManyStates
        self._knots.append(_Knot(list(free)))
        return len(self._knots) - 1

    def _wire(self, node: RegexNode, after: int) -> int:
        """Entry of an automaton for `node` that continues at `after`."""
        if isinstance(node, Match):
            entry = self._knot()
            self._knots[entry].codes, self._knots[entry].target = node.codes, after
            return entry
        if isinstance(node, Concat):
            for part in reversed(node.parts):
                after = self._wire(part, after)
            return after
        if isinstance(node, Either):
            return self._knot(*(self._wire(option, after) for option in node.options))
        if isinstance(node, Loop):
            return self._wire_loop(node, after)
        return self._knot(after)

    def _wire_loop(self, node: Loop, after: int) -> int:
        if node.most is None:
            again = self._knot(after)
            self._knots[again].free.append(self._wire(node.part, again))
            entry = again
        else:
            entry = after
            for _ in range(node.most - node.least):
                entry = self._knot(after, self._wire(node.part, entry))
        for _ in range(node.least):
            entry = self._wire(node.part, entry)
        return entry

    def _reach(self, knots: Iterable[int]) -> frozenset[int]:
        """The knots that matter (a character to read, or the end) after all free moves."""
        seen = set(knots)
        waiting = list(seen)
        while waiting:
            for follower in self._knots[waiting.pop()].free:
                if follower not in seen:
                    seen.add(follower)
                    waiting.append(follower)
        return frozenset(k for k in seen if k == self._end or self._knots[k].codes is not None)

    def start(self) -> State:
        """Everything reachable without a character."""
        return self._reach([self._start])

    def moves(self, state: State) -> Moves:
        """The alphabet split where the knots disagree."""
        assert isinstance(state, frozenset)  # noqa: S101 - our own states
        pieces: list[tuple[CodeSet, frozenset[int]]] = [(EVERY_CODE, frozenset())]
        for knot in (self._knots[k] for k in state):
            if knot.codes is not None:
                pieces = _split(pieces, knot.codes, knot.target)
        merged: dict[State, CodeSet] = {}
        for codes, targets in pieces:
            if targets:
                reached = self._reach(targets)
                merged[reached] = merged[reached] | codes if reached in merged else codes
        return [(codes, reached) for reached, codes in merged.items()]

    def accepts(self, state: State) -> bool:
        """The end is among the knots."""
        return isinstance(state, frozenset) and self._end in state


def _split(
    pieces: list[tuple[CodeSet, frozenset[int]]], codes: CodeSet, target: int
) -> list[tuple[CodeSet, frozenset[int]]]:
    halves: list[tuple[CodeSet, frozenset[int]]] = []
    for piece, targets in pieces:
        inside, outside = piece & codes, piece - codes
        if inside:
            halves.append((inside, targets | {target}))
        if outside:
            halves.append((outside, targets))
    return halves


class TooManyStates(ValueError):
    """The constraints need more states than allowed."""


@dataclass(frozen=True)
class StateTable:
    """A finished automaton: state 0 starts; every state leads to an end. No row: no string is allowed."""

    moves: tuple[tuple[tuple[CodeSet, int], ...], ...]
    accepting: frozenset[int]

    def cost_ms(self) -> float:
        """What the states cost the engine at compile time; a state that loops is walked through again and again."""
        return sum(
            class_cost_ms(CodeSet.joined(codes for codes, _ in row))
            * (LOOP_FACTOR if state in map(_target, row) else 1)
            for state, row in enumerate(self.moves)
        )


def _target(move: tuple[CodeSet, int]) -> int:
    return move[1]


def combine(automata: list[Automaton], max_states: int) -> StateTable:
    """The strings that all automata accept. Raises TooManyStates."""
    start = tuple(automaton.start() for automaton in automata)
    numbers: dict[tuple[State, ...], int] = {start: 0}
    rows: list[list[tuple[CodeSet, int]]] = []
    accepting: set[int] = set()
    waiting = [start]
    for state in waiting:
        if all(automaton.accepts(part) for automaton, part in zip(automata, state, strict=True)):
            accepting.add(numbers[state])
        row: list[tuple[CodeSet, int]] = []
        for codes, following in _joint_moves(automata, state):
            if following not in numbers:
                numbers[following] = len(numbers)
                waiting.append(following)
            row.append((codes, numbers[following]))
        rows.append(row)
        if len(numbers) > max_states:
            raise TooManyStates
    return _trimmed(rows, accepting)


def _joint_moves(automata: list[Automaton], state: tuple[State, ...]) -> list[tuple[CodeSet, tuple[State, ...]]]:
    joint: list[tuple[CodeSet, tuple[State, ...]]] = [(EVERY_CODE, ())]
    for automaton, part in zip(automata, state, strict=True):
        own = automaton.moves(part)
        joint = [
            (both, (*head, following)) for codes, head in joint for mine, following in own if (both := codes & mine)
        ]
    return joint


def _trimmed(rows: list[list[tuple[CodeSet, int]]], accepting: set[int]) -> StateTable:
    """Without the states from which no end can be reached."""
    live = _live_states(rows, accepting)
    if 0 not in live:
        return StateTable((), frozenset())
    number = {state: i for i, state in enumerate(sorted(live))}
    moves = tuple(tuple((codes, number[t]) for codes, t in rows[s] if t in live) for s in sorted(live))
    return StateTable(moves, frozenset(number[s] for s in accepting))


def _live_states(rows: list[list[tuple[CodeSet, int]]], accepting: set[int]) -> set[int]:
    sources: dict[int, list[int]] = {}
    for state, row in enumerate(rows):
        for _, target in row:
            sources.setdefault(target, []).append(state)
    live = set(accepting)
    waiting = list(accepting)
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in live:
                live.add(source)
                waiting.append(source)
    return live
