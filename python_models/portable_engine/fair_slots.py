"""Which sequence gets the next slot, and which one gives up its own: tenants share the slots equally.

A sequence waits first in, first out within its tenant. A tenant may use every slot while nobody else waits. When others
wait and no slot is free, a sequence is displaced: it waits again, as the first of its tenant, and goes on where it was.

- A tenant with two slots more than another tenant, which waits, gives up the one of its youngest sequence at once.
- Where that would only swap the two tenants' shares, the slot changes hands after `SLICE_NS`. So with more tenants than
  slots, each gets a turn.
- The server's own canary goes first and displaces another sequence at once, so that load can't keep it from an answer.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence as Rows

from portable_engine.sequence import Sequence

CANARY_TENANT = "llmstack-canary"  # the policy lets no client use this name
SLICE_NS = 1_000_000_000


class FairSlots:
    """The waiting sequences, in a queue for each tenant. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Sequence]] = {}  # oldest first; no queue is empty
        self._num_added = 0
        self._num_turns = 0
        # When each tenant last got or gave up a slot; of a new tenant, when it began to wait. Counted in such events.
        self._turns: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether a sequence waits."""
        return bool(self._queues)

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""
        self._num_added += 1
        sequence.number = self._num_added
        self._turns.setdefault(sequence.tenant, self._num_turns)
        self._queues.setdefault(sequence.tenant, []).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Let a displaced sequence wait again, before the younger ones of its tenant."""
        insort(self._queues.setdefault(sequence.tenant, []), sequence, key=lambda waiting: waiting.number)
        self._count_turn(sequence.tenant)

    def take(self, running: Rows[Sequence]) -> Sequence | None:
        """Remove the sequence that gets a free slot; None if none waits."""
        tenant = self._next_tenant(_num_slots(running))
        if tenant is None:
            return None
        sequence = self._queues[tenant].pop(0)
        if not self._queues[tenant]:
            del self._queues[tenant]
        self._count_turn(tenant)
        self._forget_absent([*running, sequence])
        return sequence

    def displaced(self, running: Rows[Sequence], now_ns: int) -> Sequence | None:
        """The running sequence that has to give up its slot for the next one; None if none has to."""
        num_slots = _num_slots(running)
        tenant = self._next_tenant(num_slots)
        if tenant is None:
            return None
        candidates = [s for s in running if self._gives_up_slot(s, tenant, num_slots, now_ns)]
        return max(candidates, key=lambda s: (num_slots[s.tenant], -self._turns[s.tenant], s.number), default=None)

    def remove_finished(self) -> list[Sequence]:
        """Remove the sequences that ended while they waited."""
        finished = [s for queue in self._queues.values() for s in queue if s.finish_reason is not None]
        if finished:
            queues = {tenant: [s for s in queue if s.finish_reason is None] for tenant, queue in self._queues.items()}
            self._queues = {tenant: queue for tenant, queue in queues.items() if queue}
        return finished

    def clear(self) -> None:
        """Remove every sequence."""
        self._queues.clear()
        self._turns.clear()

    def _count_turn(self, tenant: str) -> None:
        self._num_turns += 1
        self._turns[tenant] = self._num_turns

    def _next_tenant(self, num_slots: Counter[str]) -> str | None:
        """The canary, else the tenant with the fewest slots; of several, the one whose last turn was longest ago."""
        if CANARY_TENANT in self._queues:
            return CANARY_TENANT
        return min(
            self._queues,
            key=lambda tenant: (num_slots[tenant], self._turns[tenant], self._queues[tenant][0].number),
            default=None,
        )

    def _gives_up_slot(self, sequence: Sequence, waiting: str, num_slots: Counter[str], now_ns: int) -> bool:
        if sequence.tenant == CANARY_TENANT or sequence.finish_reason is not None:
            return False
        if waiting == CANARY_TENANT:
            return True
        surplus = num_slots[sequence.tenant] - num_slots[waiting]
        return surplus > 1 or (surplus == 1 and now_ns - sequence.slot_since_ns >= SLICE_NS)

    def _forget_absent(self, running: Rows[Sequence]) -> None:
        """Forget the turns of tenants that neither wait nor run, so that their number is bounded."""
        if len(self._turns) > len(self._queues) + len(running):
            present = {*self._queues, *(s.tenant for s in running)}
            self._turns = {tenant: turn for tenant, turn in self._turns.items() if tenant in present}


def _num_slots(running: Rows[Sequence]) -> Counter[str]:
    return Counter(sequence.tenant for sequence in running)
