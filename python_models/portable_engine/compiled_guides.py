"""The guides that the engine has compiled, and those that lost their place."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from portable_engine.failure import Failure
from portable_engine.guide_backend import CompiledGrammar
from portable_engine.mask_law import NUM_FILLS

MAX_REFUSED = 4_096


@dataclass(eq=False)
class CompiledGuide:
    """One compiled guide, shared by its sequences. `fills_ms` is the processor time of its last mask fills."""

    key: bytes
    grammar: CompiledGrammar
    fills_ms: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_FILLS))
    failure: Failure | None = None


def guide_key(guide_type: str, guide: str) -> bytes:
    """What identifies a guide."""
    return hashlib.sha256(f"{guide_type}\0{guide}".encode()).digest()


class CompiledGuides:
    """Keeps the most recently used guides that take up to `max_bytes` together. Every thread may use it.

    Refused guides are remembered without their grammar, the last `max_refused` of them.
    """

    def __init__(self, max_bytes: int, max_refused: int = MAX_REFUSED) -> None:
        self._max_bytes = max_bytes
        self._max_refused = max_refused
        self._num_bytes = 0
        self._guides: OrderedDict[bytes, CompiledGuide] = OrderedDict()
        self._refused: OrderedDict[bytes, Failure] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: bytes) -> CompiledGuide | Failure | None:
        """The compiled guide, or why it is refused; None if it is not known."""
        with self._lock:
            if key in self._refused:
                self._refused.move_to_end(key)
                return self._refused[key]
            if key in self._guides:
                self._guides.move_to_end(key)
            return self._guides.get(key)

    def add(self, guide: CompiledGuide) -> None:
        """Keep a guide. One that takes more than `max_bytes` is not kept."""
        with self._lock:
            self._drop(guide.key)
            self._guides[guide.key] = guide
            self._num_bytes += guide.grammar.size_bytes
            while self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._guides)))

    def refuse(self, guide: CompiledGuide, failure: Failure) -> None:
        """End the guide's sequences with `failure`, drop its grammar and refuse it from now on."""
        guide.failure = failure
        with self._lock:
            self._drop(guide.key)
            self._refused[guide.key] = failure
            if len(self._refused) > self._max_refused:
                self._refused.popitem(last=False)

    def _drop(self, key: bytes) -> None:
        if (guide := self._guides.pop(key, None)) is not None:
            self._num_bytes -= guide.grammar.size_bytes
