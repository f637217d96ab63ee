"""Lazy deterministic automata over the characters of a string.

An automaton has a start state, the transitions of a state, and accepting states. `pattern` with `maxLength`, two
patterns, or "any name except these" become the intersection of their automata (see `dfa.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Protocol

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet

State = Hashable
Transitions = list[tuple[CodeSet, State]]


class TooManyStates(ValueError):
    """The constraints need more states than allowed."""


class Automaton(Protocol):
    """A deterministic automaton; it rejects a string at a character without a transition."""

    def start(self) -> State:
        """The state before the first character."""

    def transitions(self, state: State) -> Transitions:
        """Disjoint character sets and the states they lead to."""

    def is_accepting(self, state: State) -> bool:
        """Whether the string may end in this state."""


class LengthAutomaton:
    """Accepts `min_length` to `max_length` characters (code points, as JSON Schema counts them)."""

    def __init__(self, min_length: int, max_length: int | None) -> None:
        self.min_length = min_length
        self.max_length = max_length

    def start(self) -> State:
        """A state is the number of characters so far."""
        return 0

    def transitions(self, state: State) -> Transitions:
        """One character more; without `max_length` the count stops at `min_length`."""
        assert isinstance(state, int)  # noqa: S101 - our own states
        if self.max_length is not None and state >= self.max_length:
            return []
        return [(EVERY_CODE, state + 1 if self.max_length is not None else min(state + 1, self.min_length))]

    def is_accepting(self, state: State) -> bool:
        """Whether there are enough characters."""
        return isinstance(state, int) and state >= self.min_length


class ExclusionAutomaton:
    """Accepts every string of the alphabet except the given names, compared over the first `depth` characters.

    A string that equals the start of a name for `depth` characters is rejected, even if it would differ later: every
    state that accepts nearly any character costs the engine a pass over its whole vocabulary.
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
        """How many prefixes of names need a state."""
        return len({name[:i] for name in names for i in range(min(len(name) + 1, depth))})

    def start(self) -> State:
        """A state is the prefix of a name so far; None means that the string differs from every name."""
        return ""

    def transitions(self, state: State) -> Transitions:
        """Along the names, or to None."""
        if state is None:
            return [(self.alphabet, None)]
        prefix = str(state)
        letters = sorted(self._next.get(prefix, ()))
        others = self.alphabet - CodeSet.of(*letters)
        longer = [(CodeSet.of(letter), prefix + letter) for letter in letters if len(prefix) + 1 < self.depth]
        return [*longer, (others, None)]

    def is_accepting(self, state: State) -> bool:
        """Every state except the end of a name."""
        return state is None or state not in self.names
