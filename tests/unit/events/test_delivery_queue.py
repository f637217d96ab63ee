"""The queue of one endpoint: order, outcomes and a disabled endpoint."""

import sqlite3
import threading

import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.events.delivery_queue import DeliveryQueue, open_outbox
from tests.outbox import Outbox
from tests.unit.events.delivery_outcomes import DELIVERED, FAILED, GONE, RETRY, record_outcomes


def test_the_head_is_the_oldest_pending_delivery(outbox):
    ids = outbox.add(3)
    queue = DeliveryQueue(outbox.connection, READINESS)
    assert queue.head().event.id == ids[0]
    record_outcomes(outbox, RETRY)
    assert queue.head().event.id == ids[0]
    record_outcomes(outbox, DELIVERED)
    assert queue.head().event.id == ids[1]
    record_outcomes(outbox, FAILED, DELIVERED)
    assert queue.head() is None


def test_recording_an_outcome_is_idempotent(outbox):
    outbox.add(1)
    queue = DeliveryQueue(outbox.connection, READINESS)
    delivery = queue.head()
    queue.record(delivery, RETRY)
    once = tuple(outbox.rows()[0])
    queue.record(delivery, RETRY)
    assert tuple(outbox.rows()[0]) == once
    assert outbox.rows()[0]["attempts"] == 1


def test_an_outcome_does_not_change_a_delivery_that_is_not_pending(outbox):
    outbox.add(1)
    queue = DeliveryQueue(outbox.connection, READINESS)
    delivery = queue.head()
    queue.record(delivery, DELIVERED)
    queue.record(delivery, FAILED)
    assert outbox.states() == ["delivered"]


def test_gone_disables_one_endpoint_and_fails_its_deliveries(outbox):
    outbox.add(2, endpoints=(READINESS, FINANCE))
    record_outcomes(outbox, GONE)
    assert outbox.states(READINESS) == ["failed"] * 2
    assert outbox.states(FINANCE) == ["pending"] * 2
    assert DeliveryQueue(outbox.connection, READINESS).is_disabled()
    assert not DeliveryQueue(outbox.connection, FINANCE).is_disabled()


def test_a_change_that_fails_half_way_is_rolled_back(outbox):
    outbox.add(2)
    outbox.connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON disabled_endpoint BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.Error, match="full"):
        record_outcomes(outbox, GONE)
    assert outbox.states() == ["pending"] * 2
    assert not outbox.connection.in_transaction


def test_delivery_and_a_writer_work_concurrently(outbox, tmp_path):
    writer = threading.Thread(target=lambda: Outbox(tmp_path).add(200))
    writer.start()
    connection, num_delivered = open_outbox(tmp_path), 0
    queue = DeliveryQueue(connection, READINESS)
    while num_delivered < 200:
        if (delivery := queue.head()) is not None:
            queue.record(delivery, DELIVERED)
            num_delivered += 1
    writer.join()
    connection.close()
    assert outbox.states() == ["delivered"] * 200
