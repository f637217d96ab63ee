"""Outcomes of delivery attempts, and a function that records them."""

from llm_policy.ledger.outbox import READINESS
from llmstack.events.delivery_queue import DeliveryOutcome, DeliveryQueue
from tests.outbox import Outbox

NS_PER_S = 10**9
NOW_NS = 2 * 10**18
DELIVERED = DeliveryOutcome("delivered", NOW_NS, NOW_NS)
FAILED = DeliveryOutcome("failed", NOW_NS, NOW_NS, "HTTP 500")
RETRY = DeliveryOutcome("pending", NOW_NS, NOW_NS, "HTTP 500", NOW_NS + NS_PER_S)
GONE = DeliveryOutcome("failed", NOW_NS, NOW_NS, "HTTP 410 Gone", disables_endpoint=True)


def record_outcomes(outbox: Outbox, *outcomes: DeliveryOutcome, endpoint: str = READINESS) -> None:
    """Record each outcome for the delivery that is the head of the queue at that time."""
    queue = DeliveryQueue(outbox.connection, endpoint)
    for outcome in outcomes:
        delivery = queue.head()
        assert delivery is not None
        queue.record(delivery, outcome)
