"""`llmstack serve` reports the state of its server correctly, and restarts what dies."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import tritonclient.grpc as triton_grpc

from llm_policy.ledger.outbox import READINESS
from llm_policy.release.manifest import TASKS
from llm_policy.release.release import RELEASE_FINGERPRINT, Release
from llm_policy.rules.headers import CANARY_TENANT
from llmstack.paths import MODEL_REPOSITORY
from llmstack.supervision.canary import MAX_STALL_S
from llmstack.supervision.housekeeping import SLOW_TICKS, TICK_S
from tests.integration.alert_assertions import webhook_environment
from tests.integration.client import start_call
from tests.integration.live_service import HOST, LiveService, wait_until
from tests.soak import ONLY_IN_SOAK
from tests.webhook_receiver import WebhookReceiver, new_secret

MAX_RECOVERY_S = 15
# Test machines are small and busy: limits are this many times longer.
SLOWNESS = 4
HANGING = """
import os, time


class Hanging(TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        execute_now = self.execute

        def execute(requests):
            while os.path.exists({flag!r}):
                time.sleep(0.1)
            return execute_now(requests)

        self.execute = execute


TritonPythonModel = Hanging
"""
# Two canaries detect an engine that hangs after some 20 s. If cancelled requests hid it, it would take twice this.
MAX_DETECTION_S = int(MAX_STALL_S / 2)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(new_secret()) as listening:
        yield listening


@pytest.fixture(scope="module")
def first_documents() -> list[dict]:
    """The documents of /readyz until the service was ready."""
    return []


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, receiver: WebhookReceiver, first_documents: list[dict]
) -> Iterator[LiveService]:
    directory = tmp_path_factory.mktemp("service")
    service = LiveService(directory, environment=webhook_environment(directory, {READINESS: receiver}))
    service.start()
    try:

        def is_ready() -> bool:
            document = service.readiness()
            first_documents.append(document)
            return document["ready"]

        wait_until(is_ready, 120, service.output)
        yield service
    finally:
        service.kill_all()


def alerts_about(receiver: WebhookReceiver, text: str) -> list[dict]:
    """The delivered engine_unhealthy events with a sample that contains `text`."""
    data = [each.event["data"] for each in receiver.received]
    return [d for d in data if d["rule"] == "engine_unhealthy" and any(text in sample for sample in d["samples"])]


def test_readyz_gives_reasons_until_the_server_is_healthy(live, first_documents):
    answered = [document for document in first_documents if "release" in document]
    assert [document["ready"] for document in answered] == [False] * (len(answered) - 1) + [True]
    assert len(answered) > 1
    reasons = [reason for document in answered for reason in document["reasons"]]
    assert any(reason.startswith("server: starting tritonserver") for reason in reasons)
    assert answered[-1]["reasons"] == []


def test_every_task_and_every_schema_was_warmed_up(live):
    rows = live.rows("SELECT task, schema_id FROM request WHERE canary = 1 AND state = 'settled'")
    assert {task for task, _ in rows} >= set(TASKS)
    assert {schema for _, schema in rows} >= set(Release.open(live.release_dir).manifest.schemas)


def test_canaries_are_not_charged(live):
    def count() -> int:
        return live.rows("SELECT count(*) FROM request WHERE canary = 1")[0][0]

    before, totals = count(), [live.metric("llm_cost_usd_total"), live.metric("llm_tokens_in_total")]
    wait_until(lambda: count() >= before + 2)
    assert [live.metric("llm_cost_usd_total"), live.metric("llm_tokens_in_total")] == totals
    assert live.rows("SELECT count(*) FROM request WHERE canary = 1 AND tenant <> ?", CANARY_TENANT) == [(0,)]


def test_the_canarys_tenant_is_rejected_from_clients(live):
    for token in ({}, {"X-Canary-Token": "guessed"}):
        reply = live.send_request(headers={"X-Tenant": CANARY_TENANT, **token})
        assert (reply.status, reply.code) == (400, "invalid_header")


def test_readyz_describes_the_release_and_its_state(live):
    live.send_request()
    wait_until(lambda: live.readiness()["queue_delay_p95_us"] is not None)
    document = live.readiness()
    release = Release.open(live.release_dir)
    assert document["release"] == str(live.release_dir)
    assert document["engine_hash"] == release.manifest.engine.hash
    assert document["manifest_hash"] == release.manifest_hash
    assert document["canary"]["ok"] is True
    assert document["canary"]["age_s"] < 1 + SLOWNESS * 5
    assert document["breaches"] == {"queue_delay": 0, "cost": 0, "schema_violation": 0, "engine_unhealthy": 0}
    assert document["delivery_backlog"] == document["delivery_failed"] == {READINESS: 0}


def test_a_moved_ledger_is_reported_and_not_recreated(live):
    path, moved = live.state_dir / "ledger.db", live.state_dir / "moved.db"
    path.rename(moved)
    try:
        wait_until(lambda: any(text.startswith("ledger: ledger.db was moved") for text in live.readiness()["reasons"]))
        assert live.send_request().status == 200
        wait_until(lambda: any(text.startswith("delivery: ") for text in live.readiness()["reasons"]))
        assert not path.exists()
    finally:
        moved.rename(path)
    wait_until(live.is_ready)


def test_one_scrape_has_the_metrics_of_triton_the_policy_and_the_parent(live):
    live.send_request()
    text = httpx.get(live.metrics_url, timeout=10).text
    for family in ("nv_inference_request_success", "llm_requests_total", "llm_queue_delay_us", "llm_delivery_backlog"):
        assert f"# TYPE {family} " in text
    assert live.metric("llm_ready") == 1
    assert live.metric('llm_metrics_part_up{part="triton"}') == 1
    assert live.metric('llm_metrics_part_up{part="ledger"}') == 1
    assert live.metric('llm_metrics_part_up{part="histograms"}') == 1


def test_the_ready_command_prints_readyz(live):
    text = live.llmstack("ready", "--port", str(live.ready_port))
    assert text.returncode == 0
    assert text.stdout.startswith("ready\n")
    document = live.llmstack("ready", "--json", "--url", live.ready_url)
    assert document.returncode == 0
    assert json.loads(document.stdout)["engine_hash"] == live.headers["X-Engine-Hash"]


def test_a_second_service_on_the_same_state_directory_is_an_error(live):
    second = subprocess.run(live.command(), capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"{live.state_dir} is in use by llmstack serve with process id {live.process.pid}" in second.stderr
    assert "--state-dir" in second.stderr
    assert live.is_ready()


@pytest.mark.parametrize("victim", ["preprocess", "tensorrt_llm", "postprocess", "tritonserver"])
def test_a_killed_process_is_reported_and_restarted(live, receiver, victim):
    wait_until(live.is_ready)
    assert live.send_request().status == 200
    answered = 'llm_requests_total{outcome="settled",task="none"}'
    num_answered, num_restarts = live.metric(answered), live.readiness()["restarts"]
    reason = "tritonserver ended" if victim == "tritonserver" else f"{victim}_0_0 died"
    num_reported = outages(live, reason)
    process = live.triton() if victim == "tritonserver" else live.stub(victim)
    server_family = live.triton().children(recursive=True)
    began = time.monotonic()
    process.kill()
    wait_until(lambda: live.readiness()["restarts"] > num_restarts)
    assert not live.is_ready()
    wait_until(lambda: live.send_request().status == 200, MAX_RECOVERY_S * SLOWNESS, live.output)
    wait_until(live.is_ready)
    print(f"{victim} recovered after {time.monotonic() - began:.1f} s")
    assert live.readiness()["restarts"] == num_restarts + 1
    assert live.metric(answered) > num_answered  # nothing was reset
    assert outages(live, reason) == num_reported + 1
    assert psutil.wait_procs(server_family, timeout=10)[1] == []


def outages(live: LiveService, text: str) -> int:
    """How many engine_unhealthy breaches with this reason are reported or pending in their window."""
    reported = live.rows("SELECT count(*) FROM event WHERE CAST(body AS TEXT) LIKE ?", f"%engine_unhealthy%{text}%")
    pending = live.rows("SELECT count(*) FROM alert_breach WHERE request_id LIKE ?", f"%{text}%")
    return reported[0][0] + pending[0][0]


def test_the_first_outage_is_delivered_immediately(live, receiver):
    wait_until(live.is_ready)
    if not outages(live, "died"):  # else another test has caused one
        live.stub("postprocess").kill()
    wait_until(lambda: alerts_about(receiver, "died") or alerts_about(receiver, "ended by itself"))
    assert receiver.invalid_signatures == []


@ONLY_IN_SOAK
def test_a_lasting_outage_is_reported_again_at_each_failed_restart(live):
    def count() -> float:
        return live.metric('llm_alerts_total{rule="engine_unhealthy"}')

    wait_until(live.is_ready)
    info, before = live.release_dir / "tokenizer_info.json", count()
    content = info.read_bytes()
    info.write_bytes(b"{}")
    try:
        live.triton().kill()
        wait_until(lambda: count() >= before + 3, 120, live.output)  # the outage and two restarts
    finally:
        info.write_bytes(content)
    wait_until(live.is_ready, 120, live.output)
    assert outages(live, "the restart failed") >= 1


def test_a_deleted_log_leaves_the_service_ready(live):
    wait_until(live.is_ready)
    live.log_path.unlink()
    deadline = time.monotonic() + TICK_S * (SLOW_TICKS + 2)
    while time.monotonic() < deadline:
        assert live.is_ready(), live.readiness()
        time.sleep(0.2)
    live.triton().kill()
    wait_until(live.log_path.exists, 60, live.output)
    wait_until(live.is_ready, 120, live.output)


def test_the_stubs_get_the_fingerprint_of_the_verified_release(live):
    wait_until(live.is_ready)
    fingerprint = Release.open(live.release_dir).verify_files().fingerprint
    for step in ("preprocess", "postprocess"):
        assert live.stub(step).environ()[RELEASE_FINGERPRINT] == fingerprint


def test_a_canary_detects_a_stub_that_hangs(live):
    wait_until(live.is_ready)
    num_restarts = live.readiness()["restarts"]
    live.stub("postprocess").suspend()
    wait_until(lambda: live.readiness()["restarts"] > num_restarts, 90, live.output)
    assert "outage: the canary failed: " in live.output()
    wait_until(lambda: live.send_request().status == 200, MAX_RECOVERY_S * SLOWNESS, live.output)
    wait_until(live.is_ready)


def test_no_process_outlives_the_parent_and_a_new_one_takes_over(live):
    wait_until(live.is_ready)
    family = live.child_processes()
    assert len(family) >= 4  # the server and its three stubs
    began = time.monotonic()
    live.process.kill()
    live.process.wait()
    live.start()
    wait_until(lambda: live.send_request().status == 200, MAX_RECOVERY_S * SLOWNESS, live.output)
    print(f"the parent recovered after {time.monotonic() - began:.1f} s")
    wait_until(live.is_ready)
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_sigterm_ends_readiness_rejects_new_requests_and_answers_those_in_flight(tmp_path):
    with LiveService(tmp_path, "embedded") as live:
        slow: list = []
        sending = threading.Thread(target=lambda: slow.append(live.send_request(max_tokens=400, min_tokens=400)))
        sending.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        family = live.child_processes()
        live.process.terminate()
        wait_until(lambda: any("draining" in reason for reason in live.readiness()["reasons"]))
        reply = live.send_request()
        assert (reply.status, reply.code) == (503, "draining")
        assert slow == []  # still in flight
        assert live.llmstack("ready", "--port", str(live.ready_port)).returncode == 1
        assert live.process.wait(60) == 0
        sending.join()
        assert slow[0].status == 200
        assert slow[0].outputs["num_output_tokens"] == [400]
        assert psutil.wait_procs(family, timeout=10)[1] == []
        assert live.rows("SELECT state, count(*) FROM request WHERE canary = 0 GROUP BY state ORDER BY state") == [
            ("refused", 1),
            ("settled", 1),
        ]
        live.start()  # the drain mark is removed
        live.wait_ready()
        assert live.send_request().status == 200


@ONLY_IN_SOAK
def test_a_signal_to_the_servers_children_also_drains(tmp_path):
    # As systemd by default, but without tritonserver, which would give requests only 5 s: too little on a busy machine.
    with LiveService(tmp_path, "embedded") as live:
        slow: list = []
        sending = threading.Thread(target=lambda: slow.append(live.send_request(max_tokens=300, min_tokens=300)))
        sending.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        family = live.child_processes()
        for process in (live.process, *live.triton().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        assert live.process.wait(60) == 0
        sending.join()
        assert slow[0].status == 200, slow[0]
        assert psutil.wait_procs(family, timeout=10)[1] == []


def test_requests_are_served_during_the_drain_delay(tmp_path):
    with LiveService(tmp_path, environment={"LLMSTACK_DRAIN_DELAY_S": "4"}) as live:
        began = time.monotonic()
        live.process.terminate()
        wait_until(lambda: any("draining" in reason for reason in live.readiness()["reasons"]))
        replies = []
        while (reply := live.send_request()).status == 200:
            replies.append(time.monotonic() - began)
            time.sleep(0.05)
        assert reply.code == "draining"
        assert len(replies) > 1
        assert replies[-1] > 2  # the delay is 4 s
        assert live.process.wait(60) == 0


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[LiveService, Path]]:
    """A service whose engine accepts requests and hangs while there is a file at the path."""
    flag, repository = tmp_path / "hang", shutil.copytree(MODEL_REPOSITORY, tmp_path / "models")
    model = repository / "tensorrt_llm" / "1" / "model.py"
    model.write_text(f"{model.read_text()}{HANGING.format(flag=str(flag))}")
    environment = {
        "LLMSTACK_MODEL_REPOSITORY": str(repository),
        "LLMSTACK_EXIT_TIMEOUT_S": str(2 * MAX_DETECTION_S),
    }
    with LiveService(tmp_path / "service", environment=environment) as live:
        yield live, flag


@ONLY_IN_SOAK
def test_cancelled_requests_neither_hide_an_engine_that_hangs_nor_delay_a_drain(hanging):
    live, flag = hanging
    with triton_grpc.InferenceServerClient(live.grpc_url) as client:
        flag.touch()
        cancel_requests(live, client)
        seconds = seconds_until(lambda: live.readiness()["restarts"] == 1, live)
        print(f"\nthe engine that hangs was detected after {seconds:.1f} s")
        assert seconds < MAX_DETECTION_S
        flag.unlink()
        wait_until(live.is_ready, 120, live.output)
        flag.touch()
        cancel_requests(live, client)
        live.process.terminate()
        seconds = seconds_until(lambda: live.process.poll() == 0, live)
        print(f"the drain took {seconds:.1f} s")
        assert seconds < MAX_DETECTION_S


def cancel_requests(live: LiveService, client: triton_grpc.InferenceServerClient, number: int = 3) -> None:
    """Cancel requests in the engine; Triton counts them as in flight until it has made their tokens."""
    (boot_id,) = live.rows("SELECT boot_id FROM request ORDER BY id DESC LIMIT 1")[0]
    num_open = "SELECT count(*) FROM request WHERE state = 'admitted' AND canary = 0 AND boot_id = ?"
    calls = [start_call(client, live, num_tokens=8) for _ in range(number)]
    wait_until(lambda: live.rows(num_open, boot_id) == [(number,)])
    for call in calls:
        call.cancel()


def seconds_until(condition: Callable[[], bool], live: LiveService) -> float:
    began = time.monotonic()
    wait_until(condition, 2 * MAX_DETECTION_S, live.output)
    return time.monotonic() - began


def test_readyz_answers_while_the_files_are_checked(tmp_path):
    live = LiveService(tmp_path)
    with (live.release_dir / "engine" / "large").open("wb") as file:
        file.truncate(1 << 40)  # sparse: takes an hour to read, and no space
    live.start()
    try:
        wait_until(lambda: live.readiness()["reasons"] == ["server: checking the release's files"], 60, live.output)
    finally:
        live.kill_all()


def test_a_second_signal_ends_the_service_immediately(tmp_path):
    with LiveService(tmp_path, "embedded") as live:
        sending = threading.Thread(target=lambda: live.send_request(max_tokens=4000, min_tokens=4000))
        sending.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        family = live.child_processes()
        for number in (signal.SIGINT, signal.SIGINT):
            os.kill(live.process.pid, number)
            time.sleep(1)
        assert live.process.wait(10) == 1
        sending.join()
        assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_service_that_does_not_run_is_not_ready(live):
    answer = live.llmstack("ready", "--url", f"http://{HOST}:1/readyz", "--json")
    assert answer.returncode == 1
    document = json.loads(answer.stdout)
    assert document["ready"] is False
    assert "does not answer" in document["reasons"][0]


def test_a_file_that_is_no_ledger_is_an_error_and_not_changed(tmp_path: Path):
    live = LiveService(tmp_path)
    live.state_dir.mkdir()
    (live.state_dir / "ledger.db").write_bytes(b"no database" * 1000)
    live.start()
    try:
        assert live.process.wait(60) == 1
        assert "file is not a database" in live.output()
        assert (live.state_dir / "ledger.db").read_bytes() == b"no database" * 1000
    finally:
        live.kill_all()
