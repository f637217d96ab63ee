"""`llmstack events`."""

import json

import pytest
from typer.testing import CliRunner

from llm_policy.ledger.outbox import READINESS
from llmstack.cli.events import app
from llmstack.events.delivery_queue import DeliveryQueue
from tests.outbox import Outbox
from tests.unit.events.delivery_outcomes import DELIVERED, FAILED, GONE, RETRY, record_outcomes


@pytest.fixture
def outbox(tmp_path):
    opened = Outbox(tmp_path)
    yield opened
    opened.connection.close()


def events(state_dir, *arguments: str):
    return CliRunner().invoke(app, [*arguments, "--state-dir", str(state_dir)])


def test_list_filters_deliveries_and_shows_why_they_are_pending(outbox, tmp_path, monkeypatch):
    monkeypatch.delenv("LLMSTACK_READINESS_WEBHOOK_URL", raising=False)
    ids = outbox.add(3)
    record_outcomes(outbox, DELIVERED, FAILED)
    listed = json.loads(events(tmp_path, "list", "--json").stdout)
    assert [row["id"] for row in listed] == ids[::-1]
    assert [row["note"] for row in listed] == ["no webhook configured", "HTTP 500", ""]
    assert listed[2]["delivered"] == "2033-05-18T03:33:20Z"
    assert listed[2]["event"]["data"] == {"number": 0}
    for arguments, count in (
        (("--state", "failed"), 1),
        (("--endpoint", "finance"), 0),
        (("--type", "llm_observability_alert"), 3),
        (("--type", "other"), 0),
        (("--limit", "2"), 2),
    ):
        assert len(json.loads(events(tmp_path, "list", "--json", *arguments).stdout)) == count


def test_list_shows_the_time_of_the_next_attempt(outbox, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMSTACK_READINESS_WEBHOOK_URL", "https://host/")
    outbox.add(1)
    record_outcomes(outbox, RETRY)
    (row,) = json.loads(events(tmp_path, "list", "--json").stdout)
    assert (row["attempts"], row["next_attempt"]) == (1, "2033-05-18T03:33:21Z")
    assert row["note"] == "HTTP 500, next attempt 2033-05-18T03:33:21Z"
    shown = events(tmp_path, "list").stdout
    assert "HTTP 500, next attempt" in shown
    assert row["id"] in shown


def test_list_names_the_rule_of_an_alert(outbox, tmp_path):
    outbox.add(1, rule="queue_delay")
    (row,) = json.loads(events(tmp_path, "list", "--json").stdout)
    assert row["rule"] == "queue_delay"
    assert " queue_delay " in events(tmp_path, "list").stdout


def test_replay_enables_a_disabled_endpoint(outbox, tmp_path):
    (event_id,) = outbox.add(1)
    record_outcomes(outbox, GONE)
    result = events(tmp_path, "replay", event_id, "--json")
    assert json.loads(result.stdout) == {"num_queued": 1, "enabled_again": ["readiness"]}
    assert outbox.states() == ["pending"]
    assert not DeliveryQueue(outbox.connection, READINESS).is_disabled()


@pytest.mark.parametrize("arguments", [("replay",), ("replay", "msg_unknown")])
def test_a_replay_of_nothing_fails_with_a_next_step(outbox, tmp_path, arguments):
    result = events(tmp_path, *arguments)
    assert result.exit_code == 2
    assert "next:" in result.stderr


def test_a_directory_without_a_ledger_is_reported_and_not_changed(tmp_path):
    result = events(tmp_path, "list")
    assert (result.exit_code, "has no ledger.db" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_deliver_and_test_need_a_configured_webhook(outbox, tmp_path, monkeypatch):
    for endpoint in ("READINESS", "FINANCE"):
        monkeypatch.delenv(f"LLMSTACK_{endpoint}_WEBHOOK_URL", raising=False)
    result = events(tmp_path, "deliver", "--endpoint", "finance")
    assert (result.exit_code, "no webhook configured" in result.stderr) == (2, True)
    assert "LLMSTACK_FINANCE_WEBHOOK_URL" in result.stderr
    assert CliRunner().invoke(app, ["test"]).exit_code == 2


@pytest.mark.parametrize("command", ["list", "deliver", "replay", "test"])
def test_help_has_an_example(command):
    assert f"Example: llmstack events {command}" in CliRunner().invoke(app, [command, "--help"]).stdout
