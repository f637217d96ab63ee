"""The automaton of a regex: an NFA by Thompson's construction, made deterministic by subset construction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet
from llm_policy.guidance.regex.automaton import State, TooManyStates, Transitions
from llm_policy.guidance.regex.syntax import Alternation, Concat, Match, RegexNode, Repetition

MAX_WORK = 500_000
"""NFA states, summed over all transitions, that one automaton may go through: about a second."""


@dataclass
class _NfaState:
    """A state of the NFA: its epsilon transitions, and one transition on a character set."""

    epsilon: list[int]
    codes: CodeSet | None = None
    target: int = -1


class PatternAutomaton:
    """Accepts the full matches of a regex tree without anchors; unsupported constructs match the empty string."""

    def __init__(self, tree: RegexNode, max_states: int) -> None:
        """Build the NFA.

        Raises:
            TooManyStates: it has more than `max_states` states. Transitions raise it beyond `MAX_WORK`.
        """
        self._nfa: list[_NfaState] = []
        self._work = 0
        self._known: dict[State, Transitions] = {}
        self._max_states = max_states
        self._end = self._add_state()
        self._start = self._build(tree, self._end)

    def _add_state(self, *epsilon: int) -> int:
        if len(self._nfa) >= self._max_states:
            raise TooManyStates
        self._nfa.append(_NfaState(list(epsilon)))
        return len(self._nfa) - 1

    def _build(self, node: RegexNode, after: int) -> int:
        """The entry state of an NFA for `node` that continues at `after`."""
        if isinstance(node, Match):
            entry = self._add_state()
            self._nfa[entry].codes, self._nfa[entry].target = node.codes, after
            return entry
        if isinstance(node, Concat):
            for part in reversed(node.parts):
                after = self._build(part, after)
            return after
        if isinstance(node, Alternation):
            return self._add_state(*(self._build(option, after) for option in node.options))
        if isinstance(node, Repetition):
            return self._build_loop(node, after)
        return self._add_state(after)

    def _build_loop(self, node: Repetition, after: int) -> int:
        if node.max_count is None:
            entry = self._add_state(after)
            self._nfa[entry].epsilon.append(self._build(node.part, entry))
        else:
            entry = after
            for _ in range(node.max_count - node.min_count):
                entry = self._add_state(after, self._build(node.part, entry))
        for _ in range(node.min_count):
            entry = self._build(node.part, entry)
        return entry

    def _epsilon_closure(self, states: Iterable[int]) -> frozenset[int]:
        """The reachable states that read a character, or end."""
        seen = set(states)
        pending = list(seen)
        while pending:
            for target in self._nfa[pending.pop()].epsilon:
                if target not in seen:
                    seen.add(target)
                    pending.append(target)
        return frozenset(s for s in seen if s == self._end or self._nfa[s].codes is not None)

    def start(self) -> State:
        """A state is a set of NFA states."""
        return self._epsilon_closure([self._start])

    def transitions(self, state: State) -> Transitions:
        """The alphabet, split wherever the NFA states differ."""
        if state not in self._known:
            self._known[state] = self._transitions(state)
        return self._known[state]

    def _transitions(self, state: State) -> Transitions:
        assert isinstance(state, frozenset)  # noqa: S101 - our own states
        targets: dict[CodeSet, set[int]] = {}
        for nfa_state in (self._nfa[s] for s in state):
            if nfa_state.codes is not None:
                targets.setdefault(nfa_state.codes, set()).add(nfa_state.target)
        pieces: list[tuple[CodeSet, frozenset[int]]] = [(EVERY_CODE, frozenset())]
        for codes, reached in targets.items():
            pieces = _split(pieces, codes, reached)
        self._count_work(len(state) * len(pieces))
        merged: dict[State, CodeSet] = {}
        for codes, entries in pieces:
            if entries:
                closed = self._epsilon_closure(entries)
                merged[closed] = merged[closed] | codes if closed in merged else codes
        return [(codes, closed) for closed, codes in merged.items()]

    def _count_work(self, amount: int) -> None:
        self._work += amount
        if self._work > MAX_WORK:
            raise TooManyStates

    def is_accepting(self, state: State) -> bool:
        """Whether the set contains the NFA's end."""
        return isinstance(state, frozenset) and self._end in state


def _split(
    pieces: list[tuple[CodeSet, frozenset[int]]], codes: CodeSet, entries: set[int]
) -> list[tuple[CodeSet, frozenset[int]]]:
    halves: list[tuple[CodeSet, frozenset[int]]] = []
    for piece, targets in pieces:
        inside, outside = piece & codes, piece - codes
        if inside:
            halves.append((inside, targets | entries))
        if outside:
            halves.append((outside, targets))
    return halves
