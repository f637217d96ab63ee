"""Tenants share the slots: nobody starves, nothing is lost, and a tenant's sequences start in the order of arrival."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from portable_engine.fair_slots import CANARY_TENANT, SLICE_NS, FairSlots
from portable_engine.sequence import FinishReason, GenerationRequest, Sequence
from tests.hypothesis_profiles import num_examples


class Slots:
    """Runs sequences in slots without a model: each needs as many steps as its `max_new_tokens`."""

    def __init__(self, num_slots, step_ns=SLICE_NS // 4):
        self.waiting = FairSlots()
        self.running = []
        self.num_slots = num_slots
        self.started, self.finished = [], []
        self.num_displaced = 0
        self._now, self._step_ns = 0, step_ns

    def add(self, tenant, num_steps=1):
        sequence = Sequence(GenerationRequest([1], num_steps), arrival_time_ns=0, tenant=tenant)
        self.waiting.add(sequence)
        return sequence

    def step(self):
        self._now += self._step_ns
        while len(self.running) < self.num_slots or self._displace():
            sequence = self.waiting.take(self.running)
            if sequence is None:
                break
            sequence.slot_since_ns = self._now
            self.running.append(sequence)
            if sequence not in self.started:
                self.started.append(sequence)
        for sequence in self.running:
            sequence.completion_token_ids.append(1)
            if len(sequence.completion_token_ids) == sequence.request.max_new_tokens:
                self.finished.append(sequence)
        self.running = [sequence for sequence in self.running if sequence not in self.finished]

    def run(self, num_steps):
        for _ in range(num_steps):
            self.step()

    def tenants(self):
        return Counter(sequence.tenant for sequence in self.running)

    def _displace(self):
        sequence = self.waiting.displaced(self.running, self._now)
        if sequence is not None:
            self.running.remove(sequence)
            self.waiting.put_back(sequence)
            self.num_displaced += 1
        return sequence is not None


def test_a_tenant_alone_uses_every_slot_and_none_of_its_sequences_is_displaced():
    slots = Slots(4)
    for _ in range(8):
        slots.add("a", 100)
    slots.run(50)
    assert (slots.tenants(), slots.num_displaced) == ({"a": 4}, 0)


def test_a_newcomer_gets_a_slot_at_the_next_step_however_long_the_others_last():
    slots = Slots(4)
    for _ in range(64):
        slots.add("a", 10_000)
    slots.run(10)
    newcomer = slots.add("b", 3)
    slots.run(3)
    assert newcomer in slots.finished


def test_the_youngest_sequence_of_the_tenant_with_most_slots_is_displaced_and_is_its_next_one():
    slots = Slots(4)
    first = [slots.add("a", 1_000) for _ in range(6)]
    slots.step()
    newcomer = slots.add("b", 2)
    slots.step()
    assert set(slots.running) == {*first[:3], newcomer}
    slots.run(2)
    assert set(slots.running) == set(first[:4])


def test_two_tenants_with_enough_to_do_get_half_of_the_slots_each():
    slots = Slots(4)
    for tenant in "aaaaaaaabbbbbbbb":
        slots.add(tenant, 1_000)
    slots.run(2)
    assert slots.tenants() == {"a": 2, "b": 2}
    assert slots.num_displaced <= 2


def test_with_more_tenants_than_slots_each_gets_a_turn():
    slots = Slots(2)
    sequences = [slots.add(f"tenant-{number}", 10_000) for number in range(6)]
    slots.run(4 * 3)
    assert set(slots.started) == set(sequences)


def test_with_one_slot_two_tenants_take_turns():
    slots = Slots(1)
    slots.add("a", 10_000)
    slots.step()
    newcomer = slots.add("b", 1)
    slots.run(5)
    assert newcomer in slots.finished


def test_the_canary_goes_first_and_displaces_a_sequence_at_once():
    slots = Slots(1)
    for tenant in "abcd":
        slots.add(tenant, 10_000)
    slots.step()
    canary = slots.add(CANARY_TENANT, 1)
    slots.step()
    assert slots.finished == [canary]


def test_the_canary_is_never_displaced():
    slots = Slots(1)
    canary = slots.add(CANARY_TENANT, 20)
    slots.step()
    slots.add("a", 1)
    slots.run(19)
    assert slots.finished == [canary]


def test_a_sequence_that_ends_while_it_waits_takes_no_slot():
    slots = Slots(1)
    running, ended = slots.add("a", 5), slots.add("b", 5)
    ended.finish_reason = FinishReason.CANCELLED
    assert slots.waiting.remove_finished() == [ended]
    slots.run(5)
    assert (slots.started, slots.finished, bool(slots.waiting)) == ([running], [running], False)


def test_turns_of_tenants_that_are_gone_are_forgotten():
    slots = Slots(2)
    for number in range(50):
        slots.add(f"tenant-{number}")
        slots.step()
    assert len(slots.waiting._turns) <= 3


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", "c", "d", CANARY_TENANT]), st.integers(1, 12)),
    max_size=30,
)


@settings(max_examples=200)
@given(ARRIVALS, st.integers(1, 4))
def test_every_sequence_finishes_once_and_each_tenants_start_in_the_order_of_arrival(arrivals, num_slots):
    slots, added = Slots(num_slots), []
    for num_steps_before, tenant, num_steps in arrivals:
        slots.run(num_steps_before)
        added.append(slots.add(tenant, num_steps))
    slots.run(sum(num_steps for _, _, num_steps in arrivals))
    assert sorted(s.number for s in slots.finished) == [s.number for s in added]
    for tenant in {s.tenant for s in added}:
        assert [s for s in slots.started if s.tenant == tenant] == [s for s in added if s.tenant == tenant]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from("abcdef"), max_size=40),
    st.integers(2, 4),
    st.integers(0, 20),
)
def test_a_newcomer_waits_at_most_one_round_of_turns(tenants, num_slots, num_steps_before):
    slots = Slots(num_slots)
    for tenant in tenants:
        slots.add(tenant, 10_000)
    slots.run(num_steps_before)
    newcomer = slots.add("newcomer", 1)
    num_others = len(set(tenants))
    slots.run(1 if num_others < num_slots else 4 * (num_others + 1))
    assert newcomer in slots.finished


@settings(max_examples=num_examples(20, in_explore_profile=100))
@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 40))
def test_no_tenant_starves_while_new_tenants_keep_coming(num_slots, num_tenants, num_newcomers):
    slots = Slots(num_slots)
    sequences = [slots.add(f"tenant-{number}", 30) for number in range(num_tenants)]
    for number in range(num_newcomers):
        slots.add(f"newcomer-{number}", 10_000)
        slots.step()
    slots.run(30 * 4 * (num_tenants + num_newcomers))
    assert set(sequences) <= set(slots.finished)
