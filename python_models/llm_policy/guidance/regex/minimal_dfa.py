"""The smallest automaton that accepts the same strings (Hopcroft's algorithm)."""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.regex.dfa import Dfa

_DEAD = -1
Sources = dict[int, dict[int, list[int]]]
"""Letter → state → states that reach it by the letter."""


def minimal(dfa: Dfa) -> Dfa:
    """The automaton with all equivalent states merged; state 0 stays the start."""
    if not dfa.rows:
        return dfa
    classes = _classes(dfa)
    number: dict[int, int] = {}
    for state in range(len(dfa.rows)):
        number.setdefault(classes[state], len(number))
    rows: list[tuple[tuple[CodeSet, int], ...]] = []
    for state, row in enumerate(dfa.rows):
        if number[classes[state]] == len(rows):
            rows.append(_merged(row, classes, number))
    return Dfa(tuple(rows), frozenset(number[classes[state]] for state in dfa.accepting))


def _merged(
    row: tuple[tuple[CodeSet, int], ...], classes: list[int], number: dict[int, int]
) -> tuple[tuple[CodeSet, int], ...]:
    merged: dict[int, CodeSet] = {}
    for codes, target in row:
        new = number[classes[target]]
        merged[new] = merged[new] | codes if new in merged else codes
    return tuple((codes, target) for target, codes in merged.items())


def _letters(dfa: Dfa) -> dict[CodeSet, list[int]]:
    """Each distinct character set as the numbers of the disjoint pieces of which it consists."""
    distinct = list(dict.fromkeys(codes for row in dfa.rows for codes, _ in row))
    starts = sorted(
        {low for codes in distinct for low, _ in codes.ranges}
        | {high + 1 for codes in distinct for _, high in codes.ranges}
    )
    place = {start: i for i, start in enumerate(starts)}
    kinds: dict[frozenset[int], int] = {}
    members: list[set[int]] = [set() for _ in starts]
    for number, codes in enumerate(distinct):
        for low, high in codes.ranges:
            for i in range(place[low], place[high + 1]):
                members[i].add(number)
    letters: dict[CodeSet, list[int]] = {codes: [] for codes in distinct}
    for found in members:
        kind = frozenset(found)
        if kind and kind not in kinds:
            kinds[kind] = len(kinds)
            for number in kind:
                letters[distinct[number]].append(kinds[kind])
    return letters


def _sources(dfa: Dfa) -> Sources:
    letters = _letters(dfa)
    num_letters = 1 + max((letter for found in letters.values() for letter in found), default=-1)
    sources: Sources = {letter: {} for letter in range(num_letters)}
    for state, row in enumerate(dfa.rows):
        missing = set(range(num_letters))
        for codes, target in row:
            for letter in letters[codes]:
                sources[letter].setdefault(target, []).append(state)
                missing.discard(letter)
        for letter in missing:
            sources[letter].setdefault(_DEAD, []).append(state)
    return sources


def _classes(dfa: Dfa) -> list[int]:
    """The class of each state: equivalent states share one."""
    sources = _sources(dfa)
    others = set(range(len(dfa.rows))) - dfa.accepting
    blocks: list[set[int]] = [set(dfa.accepting), others, {_DEAD}]
    block_of = {state: i for i, block in enumerate(blocks) for state in block}
    pending = {0, 1, 2}
    while pending:
        splitter = list(blocks[pending.pop()])
        for reached in sources.values():
            entering = {source for state in splitter for source in reached.get(state, ())}
            _split(entering, blocks, block_of, pending)
    return [block_of[state] for state in range(len(dfa.rows))]


def _split(entering: set[int], blocks: list[set[int]], block_of: dict[int, int], pending: set[int]) -> None:
    """Split each block into the states that enter the splitter and the others."""
    touched: dict[int, set[int]] = {}
    for state in entering:
        touched.setdefault(block_of[state], set()).add(state)
    for number, inside in touched.items():
        if len(inside) == len(blocks[number]):
            continue
        blocks[number] -= inside
        blocks.append(inside)
        new = len(blocks) - 1
        block_of.update(dict.fromkeys(inside, new))
        if number in pending or len(inside) <= len(blocks[number]):
            pending.add(new)
        else:
            pending.add(number)
