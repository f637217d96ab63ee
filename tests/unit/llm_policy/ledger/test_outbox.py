"""The instance's name in the source of its events."""

import json
import socket

import pytest

from llm_policy.ledger.outbox import InstanceError, new_event
from llm_policy.steps.ledger_writer import LedgerWriter
from llmstack.server.error import ServerStartError
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from tests.manifests import manifest


def test_the_source_of_an_event_names_the_instance(monkeypatch):
    monkeypatch.setenv("LLMSTACK_INSTANCE", "berlin-2")
    assert json.loads(new_event("t", {}, 1).body)["source"] == "/llmstack/berlin-2"
    monkeypatch.delenv("LLMSTACK_INSTANCE")
    assert json.loads(new_event("t", {}, 1).body)["source"] == f"/llmstack/{socket.gethostname()}"


@pytest.mark.parametrize("name", ["a b", "a/b", "ä", "a\n", "a" * 65])
def test_the_server_does_not_start_with_an_invalid_instance_name(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMSTACK_INSTANCE", name)
    with pytest.raises(ServerStartError, match="LLMSTACK_INSTANCE is") as error:
        LedgerMaintenance(tmp_path, manifest())
    assert "1 to 64 letters" in error.value.next_step
    with pytest.raises(InstanceError):
        LedgerWriter(tmp_path, manifest(), "boot-1").open()
