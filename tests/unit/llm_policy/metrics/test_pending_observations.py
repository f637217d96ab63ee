"""Observations that are written together make the histogram that single ones make."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from llm_policy.metrics.pending_observations import PendingObservations

BOUNDS = (1, 2.5, 10)
VALUES = st.lists(st.integers(0, 48).map(lambda quarters: quarters / 4))


def histogram():
    registry = CollectorRegistry()
    return Histogram("h", "", buckets=BOUNDS, registry=registry), registry


def samples(registry):
    return {
        (s.name, s.labels.get("le")): s.value for m in registry.collect() for s in m.samples if "created" not in s.name
    }


@given(VALUES, VALUES)
def test_the_histogram_is_that_of_single_observations(first, second):
    (single, single_registry), (together, registry) = histogram(), histogram()
    pending = PendingObservations(BOUNDS)
    for values in (first, second):
        for value in values:
            single.observe(value)
            pending.add(value)
        pending.write(together)
        assert samples(registry) == samples(single_registry)


def test_what_was_written_is_not_written_again():
    one, registry = histogram()
    pending = PendingObservations(BOUNDS)
    pending.add(3)
    pending.write(one)
    pending.write(one)
    assert samples(registry)["h_count", None] == 1
