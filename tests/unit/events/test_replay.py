"""Replays queue deliveries again and enable a disabled endpoint."""

import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.events.replay import UnknownEvent, replay_endpoint, replay_events
from tests.unit.events.delivery_outcomes import DELIVERED, FAILED, RETRY, record_outcomes


def test_replaying_an_endpoint_queues_only_failed_deliveries_and_retries(outbox):
    outbox.add(4)
    record_outcomes(outbox, DELIVERED, FAILED, RETRY)
    result = replay_endpoint(outbox.connection, READINESS)
    assert (result.num_queued, result.enabled_again) == (2, [])
    assert outbox.states() == ["delivered", "pending", "pending", "pending"]
    replayed = [(row["attempts"], row["next_attempt_ns"], row["last_error"]) for row in outbox.rows()[1:]]
    assert replayed == [(0, 0, "")] * 3


def test_an_event_is_replayed_to_one_endpoint_or_to_all_of_its_endpoints(outbox):
    (event_id,) = outbox.add(1, endpoints=(READINESS, FINANCE))
    for endpoint in (READINESS, FINANCE):
        record_outcomes(outbox, DELIVERED, endpoint=endpoint)
    assert replay_events(outbox.connection, [event_id], FINANCE).num_queued == 1
    assert (outbox.states(READINESS), outbox.states(FINANCE)) == (["delivered"], ["pending"])
    assert replay_events(outbox.connection, [event_id, event_id], None).num_queued == 2
    assert outbox.states(READINESS) == ["pending"]


def test_nothing_is_replayed_when_one_event_is_unknown(outbox):
    (event_id,) = outbox.add(1)
    record_outcomes(outbox, FAILED)
    for ids, endpoint in (([event_id, "msg_0"], None), ([event_id], FINANCE)):
        with pytest.raises(UnknownEvent):
            replay_events(outbox.connection, ids, endpoint)
    assert outbox.states() == ["failed"]
