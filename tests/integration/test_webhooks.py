"""Delivery to real HTTP receivers that fail in many ways: no event is lost, out of order or sent elsewhere."""

import io
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.cli.events import app
from llmstack.events.delivery_service import DeliveryService
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint, secret_variable, url_variable
from llmstack.events.endpoint_lock import EndpointBusy, EndpointLock
from llmstack.events.json_log import json_log
from llmstack.events.replay import replay_endpoint, replay_events
from llmstack.events.retry_schedule import RetrySchedule
from llmstack.events.secret_file import SecretFile
from llmstack.events.webhook_dispatcher import WebhookDispatcher
from llmstack.events.webhook_sender import Timeouts
from tests.outbox import Outbox
from tests.webhook_receiver import (
    WebhookReceiver,
    endless_body,
    hang,
    new_secret,
    reset,
    respond,
    trickle_headers,
    write_secrets,
)

FAST = DeliverySettings(
    schedule=RetrySchedule(base_s=0.01, max_backoff_s=0.05),
    timeouts=Timeouts(connect_s=30.0, read_s=30.0, total_s=30.0),
    poll_s=0.02,
)
IMPATIENT = replace(FAST, timeouts=Timeouts(connect_s=30.0, read_s=1.0, total_s=1.5))
NS_PER_S = 10**9


class Clock:
    """Unix time that advances only by calls."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS_PER_S)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    (tmp_path / "state").mkdir()
    opened = Outbox(tmp_path / "state")
    yield opened
    opened.connection.close()


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(new_secret()) as live:
        yield live


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dispatcher(outbox: Outbox, receiver: WebhookReceiver, clock: Clock, tmp_path: Path) -> Iterator[WebhookDispatcher]:
    """A dispatcher with a fixed clock whose jitter is always the whole backoff."""
    settings = replace(FAST, schedule=RetrySchedule(), now_ns=clock, uniform=lambda low, high: high)
    with closing(WebhookDispatcher(receiver.endpoint(tmp_path), settings, json_log(io.StringIO()))) as made:
        yield made


@contextmanager
def delivering(outbox: Outbox, *endpoints: Endpoint, settings: DeliverySettings = FAST) -> Iterator[DeliveryService]:
    service = DeliveryService(outbox.state_dir, endpoints, settings, json_log(io.StringIO()))
    service.start()
    try:
        yield service
    finally:
        service.stop()


def wait_until(condition, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def all_delivered(outbox: Outbox, endpoint: str = READINESS):
    return lambda: set(outbox.states(endpoint)) == {"delivered"}


def without_repeats(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def test_events_arrive_in_order_signed_and_once(outbox, receiver, tmp_path):
    ids = outbox.add(20)
    with delivering(outbox, receiver.endpoint(tmp_path)):
        wait_until(all_delivered(outbox))
        ids += outbox.add(5)  # while it runs
        wait_until(all_delivered(outbox))
    assert receiver.ids == ids
    assert receiver.invalid_signatures == []
    assert receiver.max_concurrent == 1


def test_the_request_body_is_the_stored_event(outbox, receiver, tmp_path):
    (event_id,) = outbox.add(1, rule="cost — €")
    with delivering(outbox, receiver.endpoint(tmp_path)):
        wait_until(all_delivered(outbox))
    (request,) = receiver.received
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.headers["webhook-id"] == request.event["id"] == event_id
    assert request.event["data"] == {"number": 0, "rule": "cost — €"}
    assert request.body == outbox.connection.execute("SELECT body FROM event").fetchone()[0]


@pytest.mark.parametrize(
    "failure",
    [respond(500), respond(404), respond(429), hang, reset, trickle_headers],
    ids=["500", "404", "429", "hang", "reset", "trickle"],
)
def test_a_failed_event_is_retried_under_the_same_id_before_the_next_event(outbox, receiver, tmp_path, failure):
    receiver.plan = [failure, failure]
    first, second = outbox.add(2)
    settings = IMPATIENT if failure in (hang, trickle_headers) else FAST
    with delivering(outbox, receiver.endpoint(tmp_path), settings=settings):
        wait_until(all_delivered(outbox))
    assert receiver.ids == [first, first, first, second]
    assert [row["attempts"] for row in outbox.rows()] == [3, 1]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(outbox, receiver, tmp_path, status):
    with WebhookReceiver(new_secret()) as elsewhere:
        receiver.plan = [respond(status, location=elsewhere.url)]
        ids = outbox.add(1)
        with delivering(outbox, receiver.endpoint(tmp_path)):
            wait_until(all_delivered(outbox))
        assert elsewhere.received == []
    assert receiver.ids == ids * 2


def test_an_endless_response_with_a_success_status_counts_as_success(outbox, receiver, tmp_path):
    receiver.plan = [endless_body]
    ids = outbox.add(2)
    with delivering(outbox, receiver.endpoint(tmp_path)):
        wait_until(all_delivered(outbox))
    assert receiver.ids == ids


def test_an_endpoint_that_hangs_does_not_delay_the_other(outbox, receiver, tmp_path):
    receiver.plan = [hang] * 1000
    with WebhookReceiver(new_secret()) as finance:
        ids = outbox.add(10, endpoints=(READINESS, FINANCE))
        endpoints = receiver.endpoint(tmp_path), finance.endpoint(tmp_path, FINANCE)
        with delivering(outbox, *endpoints) as service:
            wait_until(all_delivered(outbox, FINANCE))
            assert [b.num_pending for b in service.backlog()] == [10, 0]
            service.stop(grace_s=0.1)
        assert finance.ids == ids
    assert receiver.ids == ids[:1]


def test_an_endpoint_that_was_down_receives_all_events_in_order(outbox, tmp_path):
    secret = new_secret()
    with WebhookReceiver(secret) as before:
        endpoint = before.endpoint(tmp_path)
    ids = outbox.add(10)
    with delivering(outbox, endpoint) as service:
        wait_until(lambda: outbox.rows()[0]["attempts"] >= 3)
        assert "ConnectError" in service.backlog()[0].last_error
        with WebhookReceiver(secret, before.port) as receiver:
            wait_until(all_delivered(outbox))
            assert receiver.ids == ids
            assert receiver.invalid_signatures == []


def test_nothing_is_sent_while_the_head_of_the_queue_waits_for_its_retry(outbox, receiver, dispatcher, clock):
    receiver.plan = [respond(500)]
    first, second = outbox.add(2)
    assert dispatcher.deliver_next(outbox.connection) is None
    assert dispatcher.deliver_next(outbox.connection) == 5.0
    clock.advance(4.9)
    assert dispatcher.deliver_next(outbox.connection) == pytest.approx(0.1)
    assert receiver.ids == [first]
    clock.advance(0.1)
    while dispatcher.deliver_next(outbox.connection) is None:
        pass
    assert receiver.ids == [first, first, second]


@pytest.mark.parametrize("spelling", ["seconds", "date"])
def test_retry_after_is_honoured(outbox, receiver, dispatcher, clock, spelling):
    clock.now_ns -= clock.now_ns % NS_PER_S  # an HTTP date has no fractions
    until = formatdate(clock.now_ns / NS_PER_S + 120, usegmt=True)
    receiver.plan = [respond(503, retry_after="120" if spelling == "seconds" else until)]
    outbox.add()
    dispatcher.deliver_next(outbox.connection)
    assert dispatcher.deliver_next(outbox.connection) == 120.0


def test_retry_after_is_bounded(outbox, receiver, dispatcher):
    receiver.plan = [respond(503, retry_after="9" * 30)]
    outbox.add()
    dispatcher.deliver_next(outbox.connection)
    assert dispatcher.deliver_next(outbox.connection) == RetrySchedule().max_retry_after_s


def test_a_delivery_is_given_up_after_a_day_and_its_event_is_kept(outbox, receiver, dispatcher, clock):
    receiver.verifies = False  # the library compares with the real clock
    receiver.plan = [respond(500)] * 1000
    began_ns = clock.now_ns
    first, second = outbox.add(2)
    while (wait_s := dispatcher.deliver_next(outbox.connection)) is None or outbox.states()[0] == "pending":
        clock.advance(wait_s or 0)
    assert clock.now_ns - began_ns >= 86_400 * NS_PER_S
    assert set(receiver.ids) == {first, second}
    given_up = outbox.rows()[0]
    assert (given_up["state"], given_up["attempts"]) == ("failed", receiver.ids.count(first))
    assert given_up["last_error"] == f"given up after {given_up['attempts']} attempts: HTTP 500"


def test_a_clock_that_is_set_back_does_not_delay_deliveries(outbox, receiver, dispatcher, clock):
    receiver.plan = [respond(500)]
    outbox.add()
    dispatcher.deliver_next(outbox.connection)
    clock.advance(-365 * 86_400)
    receiver.verifies = False
    assert dispatcher.deliver_next(outbox.connection) is None
    assert outbox.states() == ["delivered"]


def test_gone_disables_the_endpoint_until_it_is_replayed(outbox, receiver, tmp_path):
    receiver.plan = [respond(410)]
    ids = outbox.add(3)
    endpoint = receiver.endpoint(tmp_path)
    with delivering(outbox, endpoint):
        wait_until(lambda: outbox.states() == ["failed"] * 3)
        ids += outbox.add(1)
        wait_until(lambda: outbox.states() == ["failed"] * 4)
    with delivering(outbox, endpoint) as service:  # the endpoint stays disabled after a restart
        ids += outbox.add(1)
        wait_until(lambda: outbox.states() == ["failed"] * 5)
        assert receiver.ids == ids[:1]
        assert "410 Gone" in service.backlog()[0].disabled_reason
        assert all("410 Gone" in row["last_error"] for row in outbox.rows())
        replayed = replay_endpoint(outbox.connection, READINESS)
        wait_until(all_delivered(outbox))
    assert (replayed.num_queued, replayed.enabled_again) == (5, [READINESS])
    assert receiver.ids == ids[:1] + ids


def test_a_delivered_event_can_be_replayed_under_the_same_id(outbox, receiver, tmp_path):
    ids = outbox.add(2)
    with delivering(outbox, receiver.endpoint(tmp_path)):
        wait_until(all_delivered(outbox))
        replay_events(outbox.connection, ids[:1], None)
        wait_until(lambda: len(receiver.ids) == 3 and all_delivered(outbox)())
    assert receiver.ids == [*ids, ids[0]]


def test_the_service_deletes_events_that_were_delivered_long_ago(outbox, receiver, tmp_path):
    ids = outbox.add(3)
    receiver.plan = [respond(410)]
    with delivering(outbox, receiver.endpoint(tmp_path)):
        wait_until(lambda: outbox.states() == ["failed"] * 3)
        replay_events(outbox.connection, ids[1:], None)
        wait_until(lambda: outbox.states() == ["failed", "delivered", "delivered"])
    DeliveryService(outbox.state_dir, [], replace(FAST, retention_days=0)).prune_old_events()
    assert [row["id"] for row in outbox.rows()] == ids[:1]


def test_every_attempt_is_signed_with_each_secret_during_a_rotation(outbox, receiver, tmp_path):
    endpoint = receiver.endpoint(tmp_path)
    old, new = receiver.secret, new_secret()
    with delivering(outbox, endpoint):
        outbox.add()
        wait_until(all_delivered(outbox))
        write_secrets(endpoint.secrets.path, new, old)
        outbox.add()
        wait_until(all_delivered(outbox))
        write_secrets(endpoint.secrets.path, new)
        receiver.secret = new
        outbox.add()
        wait_until(all_delivered(outbox))
    assert receiver.invalid_signatures == []
    assert [len(request.headers["webhook-signature"].split(" ")) for request in receiver.received] == [1, 2, 1]
    for secret in (old, new):
        Webhook(secret).verify(receiver.received[1].body, receiver.received[1].headers)


def test_the_previous_secrets_stay_in_use_when_the_file_becomes_invalid(outbox, receiver, tmp_path):
    endpoint, log = receiver.endpoint(tmp_path), io.StringIO()
    endpoint.secrets.path.write_text("whsec_oops\n")
    outbox.add(2)
    with closing(WebhookDispatcher(endpoint, FAST, json_log(log))) as dispatcher:
        while dispatcher.deliver_next(outbox.connection) is None:
            pass
    assert outbox.states() == ["delivered"] * 2
    assert receiver.invalid_signatures == []
    assert log.getvalue().count("webhook_secrets_unusable") == 1


@pytest.mark.parametrize(("status", "level"), [(204, "info"), (404, "warning"), (503, "warning")])
def test_an_attempt_that_is_not_accepted_is_logged_as_a_warning(outbox, receiver, tmp_path, status, level):
    log = io.StringIO()
    receiver.plan = [respond(status)]
    outbox.add(1)
    with closing(WebhookDispatcher(receiver.endpoint(tmp_path), FAST, json_log(log))) as dispatcher:
        dispatcher.deliver_next(outbox.connection)
    (line,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert (line["event"], line["status"], line["level"]) == ("webhook_attempt", status, level)


def test_an_attempt_is_logged_as_one_json_line_without_secret_path_or_body(outbox, receiver, tmp_path):
    receiver.plan = [respond(500), respond(200)]
    ids, log = outbox.add(1, marker="the body"), io.StringIO()
    service = DeliveryService(outbox.state_dir, [receiver.endpoint(tmp_path)], FAST, json_log(log))
    service.start()
    wait_until(all_delivered(outbox))
    service.stop()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["attempt"], line["state"], line["status"]) for line in lines] == [
        (1, "pending", 500),
        (2, "delivered", 200),
    ]
    assert {line["event_id"] for line in lines} == set(ids)
    assert lines[0]["webhook"] == f"http://127.0.0.1:{receiver.port}"
    for hidden in (receiver.secret, receiver.secret.removeprefix("whsec_"), "path-token", "the body"):
        assert hidden not in log.getvalue() + repr(service) + repr(receiver.endpoint(tmp_path))


def test_proxies_in_the_environment_are_ignored(outbox, receiver, tmp_path, monkeypatch):
    with WebhookReceiver(new_secret()) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        ids = outbox.add()
        with delivering(outbox, receiver.endpoint(tmp_path)):
            wait_until(all_delivered(outbox))
        assert proxy.received == []
    assert receiver.ids == ids


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_https_needs_a_trusted_certificate(outbox, tmp_path, monkeypatch):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        *subject,
    ]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    ids = outbox.add()
    with WebhookReceiver(new_secret(), tls=tls) as receiver:
        with delivering(outbox, receiver.endpoint(tmp_path)):
            wait_until(lambda: outbox.rows()[0]["attempts"] >= 2)
        assert "certificate verify failed" in outbox.rows()[0]["last_error"]
        assert receiver.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # trusts the operator's own authority
        with delivering(outbox, receiver.endpoint(tmp_path)):
            wait_until(all_delivered(outbox))
        assert receiver.ids == ids


def test_an_event_is_not_sent_again_when_its_outcome_can_not_be_written(outbox, receiver, dispatcher):
    (event_id,) = outbox.add()
    outbox.connection.execute(
        "CREATE TEMP TRIGGER full BEFORE UPDATE ON delivery BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    )
    for _ in range(3):
        with pytest.raises(Exception, match="disk is full"):
            dispatcher.deliver_next(outbox.connection)
    outbox.connection.execute("DROP TRIGGER full")
    assert dispatcher.deliver_next(outbox.connection) == float("inf")
    assert outbox.states() == ["delivered"]
    assert receiver.ids == [event_id]


def test_a_service_waits_for_its_ledger_and_its_lock(receiver, tmp_path):
    state_dir, prepared, log = tmp_path / "state", tmp_path / "prepared", io.StringIO()
    prepared.mkdir()
    service = DeliveryService(state_dir, [receiver.endpoint(tmp_path)], FAST, json_log(log))
    service.start()
    try:
        wait_until(lambda: "FileNotFoundError" in log.getvalue())
        with EndpointLock(prepared, READINESS):
            prepared.rename(state_dir)
            outbox = Outbox(state_dir)
            ids = outbox.add()
            wait_until(lambda: "another process" in log.getvalue())
            assert receiver.ids == []
        wait_until(all_delivered(outbox))
        outbox.connection.close()
    finally:
        service.stop()
    assert receiver.ids == ids


def test_a_stop_cancels_a_hanging_attempt_and_the_next_start_repeats_it(outbox, receiver, tmp_path):
    receiver.plan = [hang]
    ids = outbox.add()
    # The attempt would last an hour.
    patient = replace(FAST, timeouts=Timeouts(connect_s=30.0, read_s=3600.0, total_s=3600.0))
    with delivering(outbox, receiver.endpoint(tmp_path), settings=patient) as service:
        wait_until(lambda: len(receiver.ids) == 1)
        service.stop(grace_s=0.1)
        assert receiver.num_concurrent == 1  # the receiver has not answered
    with EndpointLock(outbox.state_dir, READINESS):  # the thread has ended
        pass
    with delivering(outbox, receiver.endpoint(tmp_path)):
        wait_until(all_delivered(outbox))
    assert receiver.ids == ids * 2


def cli_environment(outbox: Outbox, endpoint: Endpoint) -> dict[str, str]:
    return {
        **os.environ,
        "LLMSTACK_STATE_DIR": str(outbox.state_dir),
        url_variable(endpoint.name): endpoint.url,
        secret_variable(endpoint.name): str(endpoint.secrets.path),
    }


def run_command(outbox: Outbox, endpoint: Endpoint, *arguments: str) -> Result:
    """Run `llmstack events` in this process: a process of its own takes a second to start."""
    return CliRunner().invoke(app, list(arguments), env=cli_environment(outbox, endpoint))


def llmstack(outbox: Outbox, endpoint: Endpoint, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmstack", "events", *arguments]
    environment = cli_environment(outbox, endpoint)
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60, check=False)


@pytest.mark.slow
def test_kill_9_loses_no_event_and_repeats_only_the_attempt_in_progress(outbox, receiver, tmp_path):
    ids = outbox.add(12)
    endpoint = receiver.endpoint(tmp_path)
    generator = random.Random(5)
    children: list[subprocess.Popen[bytes]] = []

    def kill_before_response(handler) -> None:
        children[-1].send_signal(signal.SIGKILL)
        handler.close_connection = True

    def kill_after_response(handler) -> None:  # between the response and the commit, or just after the commit
        respond(200)(handler)
        time.sleep(generator.uniform(0, 0.01))
        children[-1].send_signal(signal.SIGKILL)

    receiver.plan = [kill_before_response, kill_after_response, respond(200), kill_after_response, kill_before_response]
    for _ in range(10):
        command = [sys.executable, "-m", "llmstack", "events", "deliver"]
        environment = cli_environment(outbox, endpoint)
        children.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        if children[-1].wait(60) == 0:
            break
    *killed, last = [child.returncode for child in children]
    assert (set(killed), last) == ({-signal.SIGKILL}, 0)
    assert len(killed) >= 3
    assert outbox.states() == ["delivered"] * 12
    assert without_repeats(receiver.ids) == ids
    assert len(receiver.ids) <= len(ids) + len(killed)
    assert receiver.invalid_signatures == []


def test_deliver_delivers_what_is_due_and_reports_what_is_left(outbox, receiver, tmp_path):
    outbox.add(3)
    receiver.plan = [respond(200), respond(500, retry_after="3000")]
    left = run_command(outbox, receiver.endpoint(tmp_path), "deliver", "--json")
    assert left.exit_code == 1
    assert json.loads(left.stdout) == [
        {"endpoint": "readiness", "num_delivered": 1, "num_failed": 0, "num_pending": 2},
    ]
    assert len(receiver.ids) == 2
    assert run_command(outbox, receiver.endpoint(tmp_path), "replay", "--endpoint", "readiness").exit_code == 0
    assert run_command(outbox, receiver.endpoint(tmp_path), "deliver").exit_code == 0
    assert outbox.states() == ["delivered"] * 3


def test_deliver_fails_while_the_service_runs(outbox, receiver, tmp_path):
    with delivering(outbox, receiver.endpoint(tmp_path)):
        outbox.add()
        wait_until(all_delivered(outbox))
        with pytest.raises(EndpointBusy), EndpointLock(outbox.state_dir, READINESS):
            pass
        done = llmstack(outbox, receiver.endpoint(tmp_path), "deliver")
    assert done.returncode == 2
    assert "another process delivers" in done.stderr
    assert "next:" in done.stderr


def test_a_test_event_is_sent_ahead_of_the_queue(outbox, receiver, tmp_path):
    outbox.add()
    receiver.plan = [respond(200), respond(403)]
    tested = run_command(outbox, receiver.endpoint(tmp_path), "test", "--json")
    assert (tested.exit_code, json.loads(tested.stdout)["readiness"]["status"]) == (0, 200)
    assert [request.event["type"] for request in receiver.received] == ["llm_webhook_test"]
    assert receiver.invalid_signatures == []
    assert outbox.states() == ["pending"]
    done = run_command(outbox, receiver.endpoint(tmp_path), "test")
    assert (done.exit_code, "HTTP 403" in done.stdout) == (1, True)


def test_an_invalid_secret_ends_the_command_with_an_error(outbox, receiver, tmp_path):
    endpoint = receiver.endpoint(tmp_path)
    endpoint.secrets.path.write_text("not-a-secret-XYZ\n")
    done = run_command(outbox, endpoint, "deliver")
    assert done.exit_code == 2
    assert "line 1: a webhook secret is whsec_" in done.stderr
    assert "XYZ" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_receiver_with_another_secret_finds_an_invalid_signature(outbox, receiver, tmp_path):
    """Shows that the checks `invalid_signatures == []` in this file can fail."""
    other = SecretFile(write_secrets(tmp_path / "other", new_secret()))
    outbox.add()
    with delivering(outbox, Endpoint(READINESS, receiver.url, other)):
        wait_until(all_delivered(outbox))
    assert len(receiver.invalid_signatures) == 1
