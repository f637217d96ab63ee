"""Old events are deleted only after every receiver took them."""

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.events.delivery_service import DeliveryService
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.retention import STEP_EVENTS, prune_step
from tests.unit.events.delivery_outcomes import DELIVERED, FAILED, NOW_NS, NS_PER_S, RETRY, record_outcomes

DAY_NS = 86_400 * NS_PER_S


def test_an_event_is_deleted_after_all_its_receivers_took_it(outbox):
    outbox.add(1, endpoints=(READINESS, FINANCE))
    record_outcomes(outbox, DELIVERED)
    assert prune_step(outbox.connection, NOW_NS + 1) == 0
    record_outcomes(outbox, DELIVERED, endpoint=FINANCE)
    assert prune_step(outbox.connection, NOW_NS) == 0
    assert prune_step(outbox.connection, NOW_NS + 1) == 1
    assert outbox.rows() + outbox.rows(FINANCE) == []
    assert outbox.connection.execute("SELECT COUNT(*) FROM event").fetchone() == (0,)


def test_pending_and_failed_events_are_never_deleted(outbox):
    outbox.add(3)
    record_outcomes(outbox, FAILED, RETRY)
    assert prune_step(outbox.connection, 9 * 10**18) == 0
    assert outbox.states() == ["failed", "pending", "pending"]


def test_one_step_deletes_a_limited_number_of_events(outbox):
    outbox.add(STEP_EVENTS + 1)
    record_outcomes(outbox, *[DELIVERED] * (STEP_EVENTS + 1))
    assert [prune_step(outbox.connection, NOW_NS + 1) for _ in range(3)] == [STEP_EVENTS, 1, 0]


def test_old_events_are_deleted_without_any_configured_webhook(outbox, tmp_path):
    outbox.add(2, time_ns=NOW_NS)
    record_outcomes(outbox, DELIVERED)
    DeliveryService(tmp_path, [], DeliverySettings(now_ns=lambda: NOW_NS + 29 * DAY_NS)).prune_old_events()
    assert outbox.states() == ["delivered", "pending"]
    DeliveryService(tmp_path, [], DeliverySettings(now_ns=lambda: NOW_NS + 31 * DAY_NS)).prune_old_events()
    assert outbox.states() == ["pending"]
