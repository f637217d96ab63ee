import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.events.endpoint_lock import EndpointBusy, EndpointLock


def test_a_lock_has_one_holder_and_covers_one_endpoint(tmp_path):
    with EndpointLock(tmp_path, READINESS):
        with pytest.raises(EndpointBusy), EndpointLock(tmp_path, READINESS):
            pass
        with EndpointLock(tmp_path, FINANCE):
            pass
    with EndpointLock(tmp_path, READINESS):
        pass
