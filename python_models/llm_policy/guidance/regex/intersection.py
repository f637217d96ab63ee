"""The intersection of automata."""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet
from llm_policy.guidance.regex.automaton import Automaton, State, TooManyStates
from llm_policy.guidance.regex.dfa import Dfa
from llm_policy.guidance.regex.minimal_dfa import minimal

Row = list[tuple[CodeSet, int]]

PRODUCT_FACTOR = 4
"""A product may have this many times the states that are allowed once equivalent ones are merged."""


def intersect(automata: list[Automaton], max_states: int) -> Dfa:
    """The strings that all automata accept (product construction).

    Raises:
        TooManyStates: the smallest automaton has more than `max_states` states, or the product several times as many.
    """
    start = tuple(automaton.start() for automaton in automata)
    numbers: dict[tuple[State, ...], int] = {start: 0}
    rows: list[Row] = []
    accepting: set[int] = set()
    reached = [start]
    for state in reached:
        if all(automaton.is_accepting(part) for automaton, part in zip(automata, state, strict=True)):
            accepting.add(numbers[state])
        row: Row = []
        for codes, target in _product_transitions(automata, state):
            if target not in numbers:
                numbers[target] = len(numbers)
                reached.append(target)
            row.append((codes, numbers[target]))
        rows.append(row)
        if len(numbers) > PRODUCT_FACTOR * max_states:
            raise TooManyStates
    dfa = minimal(_trimmed(rows, accepting))
    if len(dfa.rows) > max_states:
        raise TooManyStates
    return dfa


def _product_transitions(
    automata: list[Automaton], state: tuple[State, ...]
) -> list[tuple[CodeSet, tuple[State, ...]]]:
    product: list[tuple[CodeSet, tuple[State, ...]]] = [(EVERY_CODE, ())]
    for automaton, part in zip(automata, state, strict=True):
        transitions = automaton.transitions(part)
        product = [
            (common, (*targets, target))
            for codes, targets in product
            for own_codes, target in transitions
            if (common := codes & own_codes)
        ]
    return product


def _trimmed(rows: list[Row], accepting: set[int]) -> Dfa:
    """The automaton without the states from which no accepting state is reachable."""
    live = _live_states(rows, accepting)
    if 0 not in live:
        return Dfa((), frozenset())
    number = {state: i for i, state in enumerate(sorted(live))}
    kept = tuple(tuple((codes, number[t]) for codes, t in rows[s] if t in live) for s in sorted(live))
    return Dfa(kept, frozenset(number[s] for s in accepting))


def _live_states(rows: list[Row], accepting: set[int]) -> set[int]:
    sources: dict[int, list[int]] = {}
    for state, row in enumerate(rows):
        for _, target in row:
            sources.setdefault(target, []).append(state)
    live = set(accepting)
    pending = list(accepting)
    while pending:
        for source in sources.get(pending.pop(), ()):
            if source not in live:
                live.add(source)
                pending.append(source)
    return live
