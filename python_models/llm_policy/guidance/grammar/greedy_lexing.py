"""Whether a greedy lexer separates the lexemes of a grammar exactly.

llguidance ends a lexeme only at the first byte that continues none of the lexemes allowed there, and never goes back;
all lexemes that match the text up to that byte are kept. So a text can be lost if, for two lexemes that may both come
next, one is finished, a character that may follow it comes, and the other can go on with the first byte of that
character. This module looks for such a pair in one automaton over all lexemes, with contexts approximated from above:
a rule's contexts are not distinguished, and counts above one are treated as unlimited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import Chars, Choice, Expression, Literal, Repeat, Rule
from llm_policy.guidance.grammar.lexeme_grammar import Follow, LexemeGrammar, union

MAX_PARTS = 10_000
"""Parts of all lexemes, with shared rules counted at each use."""
MAX_DEPTH = 200
"""Nesting of parts, through rules."""
MAX_STATES = 4_000
MAX_LEXEMES = 500


class TooManyStates(Exception):
    """The automaton is over its bounds."""


def overrunning_lexemes(grammar: LexemeGrammar, follow: Follow) -> set[str]:
    """The lexemes that may go on where another one ends; greedy lexing loses no text if there is none.

    Raises:
        TooManyStates: the automaton is over its bounds.
    """
    if len(grammar.lexemes) > MAX_LEXEMES:
        raise TooManyStates
    automaton = _LexemeAutomaton(grammar)
    overlaps, conflicts = _Search(automaton, _following_bytes(grammar, follow)).run()
    together = _allowed_together(follow, overlaps)
    return {follow.names[b] for a, b in conflicts if together[a] >> b & 1}


def _following_bytes(grammar: LexemeGrammar, follow: Follow) -> list[int]:
    """For each lexeme the first bytes of the lexemes that may follow, as a mask of 256 bits."""
    starts = [lead_bytes(grammar.regular.first(grammar.lexemes[name])) for name in follow.names]
    return [union(starts[i] for i in bits(after)) for after in follow.follow]


def lead_bytes(codes: CodeSet) -> int:
    """The first UTF-8 bytes of the characters, as a mask of 256 bits."""
    mask = 0
    for low, high in codes.ranges:
        first, last = _lead_byte(low), _lead_byte(high)
        mask |= (1 << last + 1) - (1 << first)
    return mask


def _lead_byte(code: int) -> int:
    if code < 0x80:
        return code
    if code < 0x800:
        return 0xC0 | code >> 6
    return 0xE0 | code >> 12 if code < 0x10000 else 0xF0 | code >> 18


def bits(mask: int) -> Iterator[int]:
    """Indices of the set bits."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass
class _LexemeAutomaton:
    """The position automaton of all lexemes; masks are over positions."""

    grammar: LexemeGrammar
    codes: list[CodeSet] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    follow: list[int] = field(default_factory=list)
    first: int = 0
    last: int = 0
    _num_parts: int = 0

    def __post_init__(self) -> None:
        for owner, expression in enumerate(self.grammar.lexemes.values()):
            first, last, _ = self._add(expression, owner, 0)
            self.first |= first
            self.last |= last

    def _add(self, expression: Expression, owner: int, depth: int) -> tuple[int, int, bool]:
        """First positions, last positions, whether the expression matches the empty text."""
        self._num_parts += 1
        if self._num_parts > MAX_PARTS or depth > MAX_DEPTH:
            raise TooManyStates
        if isinstance(expression, Rule):
            return self._add(self.grammar.regular.rules[expression.name], owner, depth + 1)
        if isinstance(expression, Chars):
            return self._add_position(expression.codes, owner)
        if isinstance(expression, Choice):
            added = [self._add(option, owner, depth + 1) for option in expression.options]
            return union(a[0] for a in added), union(a[1] for a in added), any(a[2] for a in added)
        if isinstance(expression, Repeat):
            first, last, is_nullable = self._add(expression.part, owner, depth + 1)
            if expression.max_count != 1:
                self._connect(last, first)
            return first, last, is_nullable or expression.min_count == 0
        if isinstance(expression, Literal):
            return self._add_sequence([Chars(CodeSet.of(character)) for character in expression.text], owner, depth)
        return self._add_sequence(list(expression.parts), owner, depth)

    def _add_sequence(self, parts: list[Expression], owner: int, depth: int) -> tuple[int, int, bool]:
        first, last, is_nullable = 0, 0, True
        for part in parts:
            part_first, part_last, part_is_nullable = self._add(part, owner, depth + 1)
            self._connect(last, part_first)
            first |= part_first if is_nullable else 0
            last = part_last | (last if part_is_nullable else 0)
            is_nullable = is_nullable and part_is_nullable
        return first, last, is_nullable

    def _add_position(self, codes: CodeSet, owner: int) -> tuple[int, int, bool]:
        mask = 1 << len(self.codes)
        self.codes.append(codes)
        self.owners.append(owner)
        self.follow.append(0)
        return mask, mask, False

    def _connect(self, sources: int, targets: int) -> None:
        for source in bits(sources):
            self.follow[source] |= targets


@dataclass(frozen=True)
class _Kind:
    """Characters that the same positions take."""

    positions: int
    leads: int


def _kinds(automaton: _LexemeAutomaton) -> list[_Kind]:
    """A partition of all characters that occur."""
    takers: dict[CodeSet, int] = {}
    for position, codes in enumerate(automaton.codes):
        takers[codes] = takers.get(codes, 0) | 1 << position
    starts = sorted({edge for codes in takers for low, high in codes.ranges for edge in (low, high + 1)})
    changes: dict[int, int] = dict.fromkeys(starts, 0)
    for codes, positions in takers.items():
        for low, high in codes.ranges:
            changes[low] ^= positions
            changes[high + 1] ^= positions
    spans: dict[int, list[tuple[int, int]]] = {}
    active = 0
    for start, end in pairwise(starts):
        active ^= changes[start]
        if active:
            spans.setdefault(active, []).append((start, end - 1))
    return [_Kind(positions, lead_bytes(CodeSet(tuple(ranges)))) for positions, ranges in spans.items()]


Pairs = set[tuple[int, int]]


class _Search:
    """The subset construction; collects pairs of lexemes."""

    def __init__(self, automaton: _LexemeAutomaton, following: list[int]) -> None:
        self._automaton = automaton
        self._following = following
        self._kinds = _kinds(automaton)
        self._overlaps: Pairs = set()
        self._conflicts: Pairs = set()

    def run(self) -> tuple[Pairs, Pairs]:
        """Pairs that match a common text, and pairs of which the second takes over what follows the first."""
        known: set[int] = set()
        pending = [kind_positions for kind_positions, _ in self._steps(self._automaton.first)]
        while pending:
            state = pending.pop()
            if state in known:
                continue
            known.add(state)
            if len(known) > MAX_STATES:
                raise TooManyStates
            ended = self._owners(state & self._automaton.last)
            self._overlaps.update((a, b) for a in ended for b in ended)
            for target, leads in self._steps(union(self._automaton.follow[p] for p in bits(state))):
                self._record(ended, target, leads)
                pending.append(target)
        return self._overlaps, self._conflicts

    def _steps(self, positions: int) -> Iterator[tuple[int, int]]:
        for kind in self._kinds if positions else ():
            if positions & kind.positions:
                yield positions & kind.positions, kind.leads

    def _owners(self, positions: int) -> set[int]:
        return {self._automaton.owners[position] for position in bits(positions)}

    def _record(self, ended: set[int], target: int, leads: int) -> None:
        cut = [owner for owner in ended if self._following[owner] & leads]
        if cut:
            going_on = self._owners(target)
            self._conflicts.update((a, b) for a in cut for b in going_on)


def _allowed_together(follow: Follow, overlaps: Pairs) -> list[int]:
    """For each lexeme those that may be allowed at the same place, as a mask.

    Both may start a text, or both follow lexemes that matched the same text at a common place.
    """
    overlapping: dict[int, list[int]] = {}
    for a, b in overlaps:
        overlapping.setdefault(a, []).append(b)
    together = [0] * len(follow.names)
    for i in bits(follow.first):
        together[i] |= follow.first
    spread: Pairs = set()
    pending = list(bits(follow.first))
    while pending:
        a = pending.pop()
        for b in overlapping.get(a, ()):
            if not together[a] >> b & 1 or (a, b) in spread:
                continue
            spread.add((a, b))
            for i, j in ((a, b), (b, a)):
                for x in bits(follow.follow[i]):
                    if follow.follow[j] & ~together[x]:
                        together[x] |= follow.follow[j]
                        pending.append(x)
    return together
