"""Finds how much of a growing completion may still turn out to be a stop word."""

from __future__ import annotations

from collections import deque

from llm_policy.text.words import Words


class StopWordMatcher:
    """The Aho-Corasick automaton of one request's stop words, over token ids.

    Its state is the longest suffix of the tokens so far that is the beginning of a stop word, or all of one. A step
    takes constant time on average, whatever the words are.
    """

    def __init__(self, words: Words) -> None:
        self._children: list[dict[int, int]] = [{}]
        self._depths = [0]
        for word in words:
            self._insert(word)
        self._suffixes = self._find_suffixes()
        self._state = 0

    @property
    def num_held(self) -> int:
        """The number of tokens at the end that are the beginning of a stop word, or all of one."""
        return self._depths[self._state]

    def add(self, token_id: int) -> None:
        """Take the next token."""
        state = self._state
        while token_id not in self._children[state]:
            if not state:
                self._state = 0
                return
            state = self._suffixes[state]
        self._state = self._children[state][token_id]

    def _insert(self, word: tuple[int, ...]) -> None:
        state = 0
        for token_id in word:
            if token_id not in self._children[state]:
                self._children[state][token_id] = len(self._children)
                self._children.append({})
                self._depths.append(self._depths[state] + 1)
            state = self._children[state][token_id]

    def _find_suffixes(self) -> list[int]:
        """For each state the state of its longest proper suffix, found by breadth."""
        suffixes = [0] * len(self._children)
        waiting = deque(self._children[0].values())
        while waiting:
            state = waiting.popleft()
            for token_id, child in self._children[state].items():
                suffix = suffixes[state]
                while suffix and token_id not in self._children[suffix]:
                    suffix = suffixes[suffix]
                suffixes[child] = self._children[suffix].get(token_id, 0)
                waiting.append(child)
        return suffixes
