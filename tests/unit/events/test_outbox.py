"""What an operator and the retention may do to the outbox, and what they never do."""

import json
import socket
import sqlite3
import threading

import pytest
from typer.testing import CliRunner

from llm_policy.ledger.outbox import FINANCE, READINESS, InstanceError, new_event
from llm_policy.steps.ledger_writer import LedgerWriter
from llmstack.cli.app import app
from llmstack.events.backlog import metric_families, read_backlog
from llmstack.events.delivery_queue import DeliveryOutcome, DeliveryQueue, open_outbox
from llmstack.events.delivery_service import DeliveryService
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint_lock import EndpointBusy, EndpointLock
from llmstack.events.replay import UnknownEvent, replay_endpoint, replay_events
from llmstack.events.retention import STEP_EVENTS, prune_step
from llmstack.server.error import ServerStartError
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from tests.manifests import manifest
from tests.outbox import Outbox

NS_PER_S = 10**9
NOW_NS = 2 * 10**18
DELIVERED = DeliveryOutcome("delivered", NOW_NS, NOW_NS)
FAILED = DeliveryOutcome("failed", NOW_NS, NOW_NS, "HTTP 500")
WAITING = DeliveryOutcome("pending", NOW_NS, NOW_NS, "HTTP 500", NOW_NS + NS_PER_S)
GONE = DeliveryOutcome("failed", NOW_NS, NOW_NS, "HTTP 410 Gone", disables_endpoint=True)


@pytest.fixture
def outbox(tmp_path):
    opened = Outbox(tmp_path)
    yield opened
    opened.connection.close()


def settle(outbox: Outbox, *outcomes: DeliveryOutcome, endpoint: str = READINESS) -> None:
    """Give each head of the line one of `outcomes`."""
    line = DeliveryQueue(outbox.connection, endpoint)
    for outcome in outcomes:
        line.record(line.head(), outcome)


def events(state_dir, *arguments: str):
    return CliRunner().invoke(app, ["events", *arguments, "--state-dir", str(state_dir)])


def test_the_head_is_the_oldest_pending_event(outbox):
    ids = outbox.add(3)
    line = DeliveryQueue(outbox.connection, READINESS)
    assert line.head().event.id == ids[0]
    settle(outbox, WAITING)
    assert line.head().event.id == ids[0]
    settle(outbox, DELIVERED)
    assert line.head().event.id == ids[1]
    settle(outbox, FAILED, DELIVERED)
    assert line.head() is None


def test_an_outcome_written_twice_is_the_same_as_once(outbox):
    outbox.add(1)
    line = DeliveryQueue(outbox.connection, READINESS)
    head = line.head()
    line.record(head, WAITING)
    once = tuple(outbox.rows()[0])
    line.record(head, WAITING)
    assert tuple(outbox.rows()[0]) == once
    assert outbox.rows()[0]["attempts"] == 1


def test_an_outcome_comes_too_late_for_what_is_settled(outbox):
    outbox.add(1)
    line = DeliveryQueue(outbox.connection, READINESS)
    head = line.head()
    line.record(head, DELIVERED)
    line.record(head, FAILED)
    assert outbox.states() == ["delivered"]


def test_gone_fails_one_endpoint_alone(outbox):
    outbox.add(2, endpoints=(READINESS, FINANCE))
    settle(outbox, GONE)
    assert outbox.states(READINESS) == ["failed"] * 2
    assert outbox.states(FINANCE) == ["pending"] * 2
    assert DeliveryQueue(outbox.connection, READINESS).is_disabled()
    assert not DeliveryQueue(outbox.connection, FINANCE).is_disabled()


def test_a_change_that_fails_half_way_is_undone(outbox):
    outbox.add(2)
    outbox.connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON disabled_endpoint BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.Error, match="full"):
        settle(outbox, GONE)
    assert outbox.states() == ["pending"] * 2
    assert not outbox.connection.in_transaction


def test_replay_of_an_endpoint_takes_up_what_failed_or_waits_and_nothing_else(outbox):
    outbox.add(4)
    settle(outbox, DELIVERED, FAILED, WAITING)
    replayed = replay_endpoint(outbox.connection, READINESS)
    assert (replayed.num_queued, replayed.enabled_again) == (2, [])
    assert outbox.states() == ["delivered", "pending", "pending", "pending"]
    assert [(row["attempts"], row["next_attempt_ns"], row["last_error"]) for row in outbox.rows()[1:]] == [
        (0, 0, "")
    ] * 3


def test_replay_of_an_event_is_for_all_its_endpoints_or_one(outbox):
    (event_id,) = outbox.add(1, endpoints=(READINESS, FINANCE))
    for endpoint in (READINESS, FINANCE):
        settle(outbox, DELIVERED, endpoint=endpoint)
    assert replay_events(outbox.connection, [event_id], FINANCE).num_queued == 1
    assert (outbox.states(READINESS), outbox.states(FINANCE)) == (["delivered"], ["pending"])
    assert replay_events(outbox.connection, [event_id, event_id], None).num_queued == 2
    assert outbox.states(READINESS) == ["pending"]


def test_an_unknown_event_replays_none_of_them(outbox):
    (event_id,) = outbox.add(1)
    settle(outbox, FAILED)
    for ids, endpoint in (([event_id, "msg_0"], None), ([event_id], FINANCE)):
        with pytest.raises(UnknownEvent):
            replay_events(outbox.connection, ids, endpoint)
    assert outbox.states() == ["failed"]


def test_an_event_is_forgotten_when_all_its_receivers_took_it_long_ago(outbox):
    outbox.add(1, endpoints=(READINESS, FINANCE))
    settle(outbox, DELIVERED)
    assert prune_step(outbox.connection, NOW_NS + 1) == 0
    settle(outbox, DELIVERED, endpoint=FINANCE)
    assert prune_step(outbox.connection, NOW_NS) == 0
    assert prune_step(outbox.connection, NOW_NS + 1) == 1
    assert outbox.rows() + outbox.rows(FINANCE) == []
    assert outbox.connection.execute("SELECT COUNT(*) FROM event").fetchone() == (0,)


def test_what_is_pending_or_failed_is_never_forgotten(outbox):
    outbox.add(3)
    settle(outbox, FAILED, WAITING)
    assert prune_step(outbox.connection, 9 * 10**18) == 0
    assert outbox.states() == ["failed", "pending", "pending"]


def test_forgetting_goes_in_small_steps(outbox):
    outbox.add(STEP_EVENTS + 1)
    settle(outbox, *[DELIVERED] * (STEP_EVENTS + 1))
    assert [prune_step(outbox.connection, NOW_NS + 1) for _ in range(3)] == [STEP_EVENTS, 1, 0]


def test_an_event_says_which_installation_it_comes_from(monkeypatch):
    monkeypatch.setenv("LLMSTACK_INSTANCE", "berlin-2")
    assert json.loads(new_event("t", {}, NOW_NS).body)["source"] == "/llmstack/berlin-2"
    monkeypatch.delenv("LLMSTACK_INSTANCE")
    assert json.loads(new_event("t", {}, NOW_NS).body)["source"] == f"/llmstack/{socket.gethostname()}"


@pytest.mark.parametrize("name", ["a b", "a/b", "ä", "a\n", "a" * 65])
def test_a_name_that_can_not_stand_in_an_event_keeps_the_server_from_starting(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMSTACK_INSTANCE", name)
    with pytest.raises(ServerStartError, match="LLMSTACK_INSTANCE is") as refused:
        LedgerMaintenance(tmp_path, manifest())
    assert "1 to 64 letters" in refused.value.next_step
    with pytest.raises(InstanceError):
        LedgerWriter(tmp_path, manifest(), "boot-1").open()


def test_the_backlog_tells_what_waits_for_whom(outbox, tmp_path):
    outbox.add(2, time_ns=NOW_NS - 90 * NS_PER_S)
    outbox.add(3, endpoints=(FINANCE,), time_ns=NOW_NS)
    settle(outbox, WAITING)
    readiness, finance = read_backlog(tmp_path, [READINESS], NOW_NS)
    assert readiness == (READINESS, True, "", 2, 90.0, "HTTP 500", 0)
    assert finance == (FINANCE, False, "", 3, 0.0, "", 0)
    settle(outbox, GONE)
    assert read_backlog(tmp_path, [READINESS], NOW_NS)[0] == (READINESS, True, "HTTP 410 Gone", 0, 0.0, "", 2)


def test_what_was_given_up_is_told_until_it_is_replayed(outbox, tmp_path):
    outbox.add(2)
    settle(outbox, FAILED, DELIVERED)
    assert read_backlog(tmp_path, [READINESS], NOW_NS)[0].num_failed == 1
    replay_endpoint(outbox.connection, READINESS)
    assert read_backlog(tmp_path, [READINESS], NOW_NS)[0].num_failed == 0


def test_where_no_ledger_is_none_is_made(tmp_path):
    with pytest.raises(sqlite3.Error):
        read_backlog(tmp_path, [READINESS], NOW_NS)
    assert list(tmp_path.iterdir()) == []


def test_old_events_are_forgotten_without_any_webhook(outbox, tmp_path):
    outbox.add(2, time_ns=NOW_NS)
    settle(outbox, DELIVERED)
    DeliveryService(tmp_path, [], DeliverySettings(now_ns=lambda: NOW_NS + 29 * 86_400 * NS_PER_S)).prune_old_events()
    assert outbox.states() == ["delivered", "pending"]
    DeliveryService(tmp_path, [], DeliverySettings(now_ns=lambda: NOW_NS + 31 * 86_400 * NS_PER_S)).prune_old_events()
    assert outbox.states() == ["pending"]


def test_the_metrics_are_those_of_configured_endpoints(outbox, tmp_path):
    outbox.add(2, time_ns=NOW_NS - 90 * NS_PER_S)
    families = metric_families(read_backlog(tmp_path, [READINESS], NOW_NS))
    assert [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples] == [
        ("llm_delivery_backlog", {"endpoint": READINESS}, 2),
        ("llm_delivery_oldest_age_seconds", {"endpoint": READINESS}, 90.0),
        ("llm_delivery_failed", {"endpoint": READINESS}, 0),
        ("llm_delivery_disabled", {"endpoint": READINESS}, 0),
    ]


def test_a_lock_is_one_endpoints_and_one_holders(tmp_path):
    with EndpointLock(tmp_path, READINESS):
        with pytest.raises(EndpointBusy), EndpointLock(tmp_path, READINESS):
            pass
        with EndpointLock(tmp_path, FINANCE):
            pass
    with EndpointLock(tmp_path, READINESS):
        pass


def test_a_delivery_and_a_writer_do_not_disturb_each_other(outbox, tmp_path):
    writer = threading.Thread(target=lambda: Outbox(tmp_path).add(200))
    writer.start()
    connection, num_delivered = open_outbox(tmp_path), 0
    line = DeliveryQueue(connection, READINESS)
    while num_delivered < 200:
        if (head := line.head()) is not None:
            line.record(head, DELIVERED)
            num_delivered += 1
    writer.join()
    connection.close()
    assert outbox.states() == ["delivered"] * 200


def test_list_filters_and_says_why_something_waits(outbox, tmp_path, monkeypatch):
    monkeypatch.delenv("LLMSTACK_READINESS_WEBHOOK_URL", raising=False)
    ids = outbox.add(3)
    settle(outbox, DELIVERED, FAILED)
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


def test_list_tells_when_the_next_attempt_is(outbox, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMSTACK_READINESS_WEBHOOK_URL", "https://host/")
    outbox.add(1)
    settle(outbox, WAITING)
    (row,) = json.loads(events(tmp_path, "list", "--json").stdout)
    assert (row["attempts"], row["next_attempt"]) == (1, "2033-05-18T03:33:21Z")
    assert row["note"] == "HTTP 500, next attempt 2033-05-18T03:33:21Z"
    shown = events(tmp_path, "list").stdout
    assert "HTTP 500, next attempt" in shown
    assert row["id"] in shown


def test_replay_from_the_command_line_enables_an_endpoint_again(outbox, tmp_path):
    (event_id,) = outbox.add(1)
    settle(outbox, GONE)
    result = events(tmp_path, "replay", event_id, "--json")
    assert json.loads(result.stdout) == {"num_queued": 1, "enabled_again": ["readiness"]}
    assert outbox.states() == ["pending"]
    assert not DeliveryQueue(outbox.connection, READINESS).is_disabled()


@pytest.mark.parametrize("arguments", [("replay",), ("replay", "msg_unknown")])
def test_a_replay_of_nothing_is_refused_with_a_next_step(outbox, tmp_path, arguments):
    result = events(tmp_path, *arguments)
    assert result.exit_code == 2
    assert "next:" in result.stderr


def test_a_directory_without_a_ledger_is_refused_and_left_alone(tmp_path):
    result = events(tmp_path, "list")
    assert (result.exit_code, "has no ledger.db" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_webhook_nothing_can_be_delivered_or_tested(outbox, tmp_path, monkeypatch):
    for endpoint in ("READINESS", "FINANCE"):
        monkeypatch.delenv(f"LLMSTACK_{endpoint}_WEBHOOK_URL", raising=False)
    result = events(tmp_path, "deliver", "--endpoint", "finance")
    assert (result.exit_code, "no webhook configured" in result.stderr) == (2, True)
    assert "LLMSTACK_FINANCE_WEBHOOK_URL" in result.stderr
    assert CliRunner().invoke(app, ["events", "test"]).exit_code == 2


@pytest.mark.parametrize("command", ["list", "deliver", "replay", "test"])
def test_help_has_an_example(command):
    assert f"Example: llmstack events {command}" in CliRunner().invoke(app, ["events", command, "--help"]).stdout
