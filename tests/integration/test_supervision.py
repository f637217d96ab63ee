"""`llmstack serve` reports the state of its server correctly, and restarts what dies."""

import json
import shutil
import subprocess
from collections.abc import Iterator
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
from tests.integration.client import start_call
from tests.integration.live_service import HOST, LiveService, wait_until
from tests.soak import ONLY_IN_SOAK
from tests.webhook_receiver import WebhookReceiver

RECOVERY_TIMEOUT_S = 120
MODELS = ("preprocess", "tensorrt_llm", "postprocess")
SLOW = pytest.mark.slow
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

pytestmark = pytest.mark.server


@pytest.fixture
def live(echo_service: LiveService) -> LiveService:
    return echo_service


@pytest.fixture
def receiver(readiness_receiver: WebhookReceiver) -> WebhookReceiver:
    return readiness_receiver


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
    assert document["canary"]["age_s"] >= 0
    assert document["breaches"] == {"queue_delay": 0, "cost": 0, "schema_violation": 0, "engine_unhealthy": 0}
    assert document["delivery_backlog"] == document["delivery_failed"] == {READINESS: 0}
    # Each canary has its own latency: the next one replaces this one.
    wait_until(lambda: live.readiness()["canary"]["latency_ms"] != document["canary"]["latency_ms"])


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "victim", ["preprocess", *(pytest.param(each, marks=SLOW) for each in ("tensorrt_llm", "postprocess"))]
)
def test_a_killed_stub_is_reported_and_replaced_by_itself(live, victim):
    assert live.send_request().status == 200
    answered = 'llm_requests_total{outcome="settled",task="none"}'
    before, num_answered = live.readiness(), live.metric(answered)
    reason = f"{victim}_0_0 died"
    num_reported = outages(live, reason)
    others = [live.triton(), *(live.stub(model) for model in MODELS if model != victim)]
    live.stub(victim).kill()
    wait_until(lambda: not live.is_ready())
    wait_until(live.is_ready, RECOVERY_TIMEOUT_S, live.output)
    assert live.send_request().status == 200
    after = live.readiness()
    assert after["reloads"].get(victim, 0) == before["reloads"].get(victim, 0) + 1
    assert (after["restarts"], after["engine_process"]["pid"]) == (before["restarts"], before["engine_process"]["pid"])
    assert all(process.is_running() for process in others)
    assert live.metric(answered) > num_answered  # nothing was reset
    assert outages(live, reason) == num_reported + 1


@pytest.mark.slow
def test_a_killed_tritonserver_is_started_again_and_the_engine_keeps_its_process(live):
    assert live.send_request().status == 200
    before = live.readiness()
    server_family = live.triton().children(recursive=True)
    live.triton().kill()
    wait_until(lambda: not live.is_ready())
    wait_until(live.is_ready, RECOVERY_TIMEOUT_S, live.output)
    assert live.send_request().status == 200
    after = live.readiness()
    assert after["restarts"] == before["restarts"] + 1
    assert after["engine_process"]["pid"] == before["engine_process"]["pid"]
    assert psutil.wait_procs(server_family, timeout=30)[1] == []


@pytest.mark.slow
def test_a_killed_engine_process_is_started_again_and_the_server_keeps_its_process(live):
    assert live.send_request().status == 200
    before, triton, codes = live.readiness(), live.triton(), set()

    def has_recovered() -> bool:
        reply = live.send_request()
        codes.add(reply.code)
        return reply.status == 200 and live.is_ready()

    psutil.Process(before["engine_process"]["pid"]).kill()
    num_restarts = before["engine_process"]["restarts"]
    wait_until(lambda: live.readiness()["engine_process"]["restarts"] > num_restarts)
    wait_until(has_recovered, RECOVERY_TIMEOUT_S, live.output)
    after = live.readiness()
    assert codes <= {"", "engine_unavailable"}
    assert triton.is_running()
    assert after["restarts"] == before["restarts"]
    assert after["engine_process"]["restarts"] == num_restarts + 1
    assert after["engine_process"]["pid"] != before["engine_process"]["pid"]


def outages(live: LiveService, text: str) -> int:
    """How many engine_unhealthy breaches with this reason are reported or pending in their window."""
    reported = live.rows("SELECT count(*) FROM event WHERE CAST(body AS TEXT) LIKE ?", f"%engine_unhealthy%{text}%")
    pending = live.rows("SELECT count(*) FROM alert_breach WHERE request_id LIKE ?", f"%{text}%")
    return reported[0][0] + pending[0][0]


def test_the_first_outage_is_delivered_immediately(live, receiver):
    if not outages(live, "died"):  # else another test has caused one
        live.stub("postprocess").kill()
    wait_until(lambda: any(alerts_about(receiver, text) for text in ("died", "ended by itself")))
    assert receiver.invalid_signatures == []


@ONLY_IN_SOAK
def test_a_lasting_outage_is_reported_again_at_each_failed_restart(live):
    def count() -> float:
        return live.metric('llm_alerts_total{rule="engine_unhealthy"}')

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


@SLOW
def test_a_deleted_log_is_created_again_by_the_next_start(live):
    live.log_path.unlink()
    live.triton().kill()
    wait_until(live.log_path.exists, RECOVERY_TIMEOUT_S, live.output)
    wait_until(live.is_ready, RECOVERY_TIMEOUT_S, live.output)


def test_the_stubs_get_the_fingerprint_of_the_verified_release(live):
    fingerprint = Release.open(live.release_dir).verify_files().fingerprint
    for step in ("preprocess", "postprocess"):
        assert live.stub(step).environ()[RELEASE_FINGERPRINT] == fingerprint


@SLOW
def test_a_canary_detects_a_stub_that_hangs(live):
    before = live.readiness()
    num_reloads = before["reloads"].get("postprocess", 0)
    live.stub("postprocess").suspend()
    wait_until(lambda: live.readiness()["reloads"].get("postprocess", 0) > num_reloads, RECOVERY_TIMEOUT_S, live.output)
    assert "outage: the canary failed: " in live.output()
    wait_until(live.is_ready, RECOVERY_TIMEOUT_S, live.output)
    assert live.send_request().status == 200
    assert live.readiness()["restarts"] == before["restarts"]


@SLOW
def test_no_process_outlives_the_parent_and_a_new_one_takes_over(live):
    family = live.child_processes()
    assert len(family) >= 4  # the server and its three stubs
    live.process.kill()
    live.process.wait()
    live.start()
    live.wait_ready(RECOVERY_TIMEOUT_S)
    assert live.send_request().status == 200
    assert psutil.wait_procs(family, timeout=30)[1] == []


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[LiveService, Path]]:
    """A service whose engine accepts requests and hangs while there is a file at the path."""
    flag, repository = tmp_path / "hang", shutil.copytree(MODEL_REPOSITORY, tmp_path / "models")
    model = repository / "tensorrt_llm" / "1" / "model.py"
    model.write_text(f"{model.read_text()}{HANGING.format(flag=str(flag))}")
    environment = {
        "LLMSTACK_MODEL_REPOSITORY": str(repository),
        "LLMSTACK_EXIT_TIMEOUT_S": "3600",
    }
    with LiveService(tmp_path / "service", environment=environment) as live:
        yield live, flag


@ONLY_IN_SOAK
def test_cancelled_requests_neither_hide_an_engine_that_hangs_nor_delay_a_drain(hanging):
    """Two canaries detect the engine after some 20 s; hidden by cancelled requests, it would take over MAX_STALL_S.

    A drain that waits for the cancelled requests would last the whole exit timeout, an hour.
    """
    live, flag = hanging
    with triton_grpc.InferenceServerClient(live.grpc_url) as client:
        flag.touch()
        cancel_requests(live, client)
        wait_until(lambda: live.readiness()["restarts"] == 1, MAX_STALL_S, live.output)
        flag.unlink()
        wait_until(live.is_ready, RECOVERY_TIMEOUT_S, live.output)
        flag.touch()
        cancel_requests(live, client)
        live.process.terminate()
        assert live.process.wait(120) == 0


def cancel_requests(live: LiveService, client: triton_grpc.InferenceServerClient, number: int = 3) -> None:
    """Cancel requests in the engine; Triton counts them as in flight until it has made their tokens."""
    (boot_id,) = live.rows("SELECT boot_id FROM request ORDER BY id DESC LIMIT 1")[0]
    num_open = "SELECT count(*) FROM request WHERE state = 'admitted' AND canary = 0 AND boot_id = ?"
    calls = [start_call(client, live, num_tokens=8) for _ in range(number)]
    wait_until(lambda: live.rows(num_open, boot_id) == [(number,)])
    for call in calls:
        call.cancel()


def test_readyz_answers_while_the_files_are_checked(tmp_path):
    live = LiveService(tmp_path)
    with (live.release_dir / "engine" / "large").open("wb") as file:
        file.truncate(1 << 40)  # sparse: takes an hour to read, and no space
    live.start()
    try:
        wait_until(lambda: live.readiness()["reasons"] == ["server: checking the release's files"], 60, live.output)
    finally:
        live.kill_all()


def test_a_service_that_does_not_run_is_not_ready(tmp_path):
    answer = LiveService(tmp_path).llmstack("ready", "--url", f"http://{HOST}:1/readyz", "--json")
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
