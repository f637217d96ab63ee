"""`llmstack serve` looks after its server: what it says of it is true, and whatever dies comes back."""

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
from llm_policy.release.release import PROOF, Release
from llm_policy.rules.headers import CANARY_TENANT
from llmstack.paths import MODEL_REPOSITORY
from llmstack.supervision.canary import MAX_STALL_S
from llmstack.supervision.housekeeping import SLOW_TURNS, TURN_S
from tests.integration.alert_assertions import webhook_environment
from tests.integration.client import cancellable
from tests.integration.live_service import HOST, LiveService, wait_until
from tests.soak import ONLY_IN_SOAK
from tests.webhook_receiver import WebhookReceiver, new_secret

BACK_WITHIN_S = 15
# The machines that run this are small and busy: a bound that only says "soon" is this many times longer.
PATIENCE = 4
HANGING = """
import os, time


class Hanging(TritonPythonModel):
    def initialize(self, args):
        super().initialize(args)
        go_on = self.execute

        def execute(requests):
            while os.path.exists({flag!r}):
                time.sleep(0.1)
            return go_on(requests)

        self.execute = execute


TritonPythonModel = Hanging
"""
# Two canaries find an engine that hangs after some 20 s; behind calls that look busy it takes more than twice this.
MUCH_TOO_LONG_S = int(MAX_STALL_S / 2)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(new_secret()) as listening:
        yield listening


@pytest.fixture(scope="module")
def first_documents() -> list[dict]:
    """What /readyz said before it said yes."""
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
        service.end()


def alerts_about(receiver: WebhookReceiver, text: str) -> list[dict]:
    """The delivered engine_unhealthy events with a sample that holds `text`."""
    data = [each.event["data"] for each in receiver.received]
    return [d for d in data if d["rule"] == "engine_unhealthy" and any(text in sample for sample in d["samples"])]


def test_readyz_says_no_and_why_until_the_server_is_proven(live, first_documents):
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


def test_canaries_go_on_and_nobody_is_charged_for_them(live):
    def count() -> int:
        return live.rows("SELECT count(*) FROM request WHERE canary = 1")[0][0]

    before, totals = count(), [live.metric("llm_cost_usd_total"), live.metric("llm_tokens_in_total")]
    wait_until(lambda: count() >= before + 2)
    assert [live.metric("llm_cost_usd_total"), live.metric("llm_tokens_in_total")] == totals
    assert live.rows("SELECT count(*) FROM request WHERE canary = 1 AND tenant <> ?", CANARY_TENANT) == [(0,)]


def test_the_canarys_tenant_is_nobody_elses(live):
    for token in ({}, {"X-Canary-Token": "guessed"}):
        reply = live.ask(headers={"X-Tenant": CANARY_TENANT, **token})
        assert (reply.status, reply.code) == (400, "invalid_header")


def test_readyz_tells_what_is_served_and_how_it_is(live):
    live.ask()
    wait_until(lambda: live.readiness()["queue_delay_p95_us"] is not None)
    document = live.readiness()
    release = Release.open(live.release_dir)
    assert document["release"] == str(live.release_dir)
    assert document["engine_hash"] == release.manifest.engine.hash
    assert document["manifest_hash"] == release.manifest_hash
    assert document["canary"]["ok"] is True
    assert document["canary"]["age_s"] < 1 + PATIENCE * 5
    assert document["breaches"] == {"queue_delay": 0, "cost": 0, "schema_violation": 0, "engine_unhealthy": 0}
    assert document["delivery_backlog"] == document["delivery_failed"] == {READINESS: 0}


def test_a_ledger_that_was_moved_away_is_told_and_none_is_made_in_its_place(live):
    path, aside = live.state_dir / "ledger.db", live.state_dir / "aside.db"
    path.rename(aside)
    try:
        wait_until(lambda: any(text.startswith("ledger: ledger.db was moved") for text in live.readiness()["reasons"]))
        assert live.ask().status == 200
        wait_until(lambda: any(text.startswith("delivery: ") for text in live.readiness()["reasons"]))
        assert not path.exists()
    finally:
        aside.rename(path)
    wait_until(live.is_ready)


def test_one_scrape_has_tritons_metrics_the_policys_and_the_parents(live):
    live.ask()
    text = httpx.get(live.metrics_url, timeout=10).text
    for family in ("nv_inference_request_success", "llm_requests_total", "llm_queue_delay_us", "llm_delivery_backlog"):
        assert f"# TYPE {family} " in text
    assert live.metric("llm_ready") == 1
    assert live.metric('llm_metrics_part_up{part="triton"}') == 1
    assert live.metric('llm_metrics_part_up{part="ledger"}') == 1
    assert live.metric('llm_metrics_part_up{part="histograms"}') == 1


def test_ready_is_readyz_for_a_shell(live):
    said = live.llmstack("ready", "--port", str(live.ready_port))
    assert said.returncode == 0
    assert said.stdout.startswith("ready\n")
    told = live.llmstack("ready", "--json", "--url", live.ready_url)
    assert told.returncode == 0
    assert json.loads(told.stdout)["engine_hash"] == live.headers["X-Engine-Hash"]


def test_a_second_server_on_the_same_state_directory_is_refused(live):
    second = subprocess.run(live.command(), capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"{live.state_dir} is in use by llmstack serve with process id {live.process.pid}" in second.stderr
    assert "--state-dir" in second.stderr
    assert live.is_ready()


@pytest.mark.parametrize("victim", ["preprocess", "tensorrt_llm", "postprocess", "tritonserver"])
def test_what_is_killed_is_reported_and_comes_back(live, receiver, victim):
    wait_until(live.is_ready)
    assert live.ask().status == 200
    answered = 'llm_requests_total{outcome="settled",task="none"}'
    num_answered, num_restarts = live.metric(answered), live.readiness()["restarts"]
    reason = "tritonserver ended" if victim == "tritonserver" else f"{victim}_0_0 died"
    num_told = outages(live, reason)
    process = live.triton() if victim == "tritonserver" else live.stub(victim)
    server_family = live.triton().children(recursive=True)
    began = time.monotonic()
    process.kill()
    wait_until(lambda: live.readiness()["restarts"] > num_restarts)
    assert not live.is_ready()
    wait_until(lambda: live.ask().status == 200, BACK_WITHIN_S * PATIENCE, live.output)
    wait_until(live.is_ready)
    print(f"{victim} was back after {time.monotonic() - began:.1f} s")
    assert live.readiness()["restarts"] == num_restarts + 1
    assert live.metric(answered) > num_answered  # nothing was reset
    assert outages(live, reason) == num_told + 1
    assert psutil.wait_procs(server_family, timeout=10)[1] == []


def outages(live: LiveService, text: str) -> int:
    """How many engine_unhealthy breaches with this reason are told or wait in their window."""
    told = live.rows("SELECT count(*) FROM event WHERE CAST(body AS TEXT) LIKE ?", f"%engine_unhealthy%{text}%")
    waiting = live.rows("SELECT count(*) FROM alert_breach WHERE request_id LIKE ?", f"%{text}%")
    return told[0][0] + waiting[0][0]


def test_the_first_outage_is_delivered_at_once(live, receiver):
    wait_until(live.is_ready)
    if not outages(live, "died"):  # else there was one in another test
        live.stub("postprocess").kill()
    wait_until(lambda: alerts_about(receiver, "died") or alerts_about(receiver, "ended by itself"))
    assert receiver.forgeries == []


@ONLY_IN_SOAK
def test_an_outage_that_lasts_is_told_again_with_each_restart_that_fails(live):
    def count() -> float:
        return live.metric('llm_alerts_total{rule="engine_unhealthy"}')

    wait_until(live.is_ready)
    info, before = live.release_dir / "tokenizer_info.json", count()
    whole = info.read_bytes()
    info.write_bytes(b"{}")
    try:
        live.triton().kill()
        wait_until(lambda: count() >= before + 3, 120, live.output)  # the outage and two restarts
    finally:
        info.write_bytes(whole)
    wait_until(live.is_ready, 120, live.output)
    assert outages(live, "the restart failed") >= 1


def test_a_log_that_somebody_took_away_is_no_reason_against_the_service(live):
    wait_until(live.is_ready)
    live.log_path.unlink()
    deadline = time.monotonic() + TURN_S * (SLOW_TURNS + 2)
    while time.monotonic() < deadline:
        assert live.is_ready(), live.readiness()
        time.sleep(0.2)
    live.triton().kill()
    wait_until(live.log_path.exists, 60, live.output)
    wait_until(live.is_ready, 120, live.output)


def test_the_stubs_are_told_what_the_parent_has_proven(live):
    wait_until(live.is_ready)
    proof = Release.open(live.release_dir).verify_files().proof
    assert [live.stub(step).environ()[PROOF] for step in ("preprocess", "postprocess")] == [proof, proof]


def test_a_stub_that_hangs_is_found_by_the_canary(live):
    wait_until(live.is_ready)
    num_restarts = live.readiness()["restarts"]
    live.stub("postprocess").suspend()
    wait_until(lambda: live.readiness()["restarts"] > num_restarts, 90, live.output)
    assert "outage: the canary failed: " in live.output()
    wait_until(lambda: live.ask().status == 200, BACK_WITHIN_S * PATIENCE, live.output)
    wait_until(live.is_ready)


def test_no_orphan_survives_the_parent_and_a_new_one_takes_over(live):
    wait_until(live.is_ready)
    family = live.family()
    assert len(family) >= 4  # the server and its three stubs
    began = time.monotonic()
    live.process.kill()
    live.process.wait()
    live.start()
    wait_until(lambda: live.ask().status == 200, BACK_WITHIN_S * PATIENCE, live.output)
    print(f"the parent was back after {time.monotonic() - began:.1f} s")
    wait_until(live.is_ready)
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_sigterm_turns_readiness_off_refuses_what_is_new_and_answers_what_is_under_way(tmp_path):
    with LiveService(tmp_path, "embedded") as live:
        slow: list = []
        asking = threading.Thread(target=lambda: slow.append(live.ask(max_tokens=400, min_tokens=400)))
        asking.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        family = live.family()
        live.process.terminate()
        wait_until(lambda: any("draining" in reason for reason in live.readiness()["reasons"]))
        reply = live.ask()
        assert (reply.status, reply.code) == (503, "draining")
        assert slow == []  # it was under way all the time
        assert live.llmstack("ready", "--port", str(live.ready_port)).returncode == 1
        assert live.process.wait(60) == 0
        asking.join()
        assert slow[0].status == 200
        assert slow[0].outputs["num_output_tokens"] == [400]
        assert psutil.wait_procs(family, timeout=10)[1] == []
        assert live.rows("SELECT state, count(*) FROM request WHERE canary = 0 GROUP BY state ORDER BY state") == [
            ("refused", 1),
            ("settled", 1),
        ]
        live.start()  # the mark of the drain is gone
        live.wait_ready()
        assert live.ask().status == 200


@ONLY_IN_SOAK
def test_a_signal_to_the_servers_children_too_is_a_drain(tmp_path):
    # systemd's default, but for tritonserver itself: that gives calls 5 s then, which a busy machine may not keep.
    with LiveService(tmp_path, "embedded") as live:
        slow: list = []
        asking = threading.Thread(target=lambda: slow.append(live.ask(max_tokens=300, min_tokens=300)))
        asking.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        family = live.family()
        for process in (live.process, *live.triton().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        assert live.process.wait(60) == 0
        asking.join()
        assert slow[0].status == 200, slow[0]
        assert psutil.wait_procs(family, timeout=10)[1] == []


def test_requests_are_served_for_a_while_after_readiness_went_off(tmp_path):
    with LiveService(tmp_path, environment={"LLMSTACK_DRAIN_DELAY_S": "4"}) as live:
        began = time.monotonic()
        live.process.terminate()
        wait_until(lambda: any("draining" in reason for reason in live.readiness()["reasons"]))
        replies = []
        while (reply := live.ask()).status == 200:
            replies.append(time.monotonic() - began)
            time.sleep(0.05)
        assert reply.code == "draining"
        assert len(replies) > 1
        assert replies[-1] > 2  # the delay is over after 4
        assert live.process.wait(60) == 0


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[LiveService, Path]]:
    """A service whose engine takes calls and does nothing with them while there is a file at the path."""
    flag, repository = tmp_path / "hang", shutil.copytree(MODEL_REPOSITORY, tmp_path / "models")
    model = repository / "tensorrt_llm" / "1" / "model.py"
    model.write_text(f"{model.read_text()}{HANGING.format(flag=str(flag))}")
    environment = {
        "LLMSTACK_MODEL_REPOSITORY": str(repository),
        "LLMSTACK_EXIT_TIMEOUT_S": str(2 * MUCH_TOO_LONG_S),
    }
    with LiveService(tmp_path / "service", environment=environment) as live:
        yield live, flag


@ONLY_IN_SOAK
def test_calls_that_were_given_up_neither_hide_an_engine_that_hangs_nor_hold_up_a_drain(hanging):
    live, flag = hanging
    with triton_grpc.InferenceServerClient(live.grpc_url) as client:
        flag.touch()
        give_up_some(live, client)
        seconds = seconds_until(lambda: live.readiness()["restarts"] == 1, live)
        print(f"\nthe engine that hangs was found after {seconds:.1f} s")
        assert seconds < MUCH_TOO_LONG_S
        flag.unlink()
        wait_until(live.is_ready, 120, live.output)
        flag.touch()
        give_up_some(live, client)
        live.process.terminate()
        seconds = seconds_until(lambda: live.process.poll() == 0, live)
        print(f"the drain took {seconds:.1f} s")
        assert seconds < MUCH_TOO_LONG_S


def give_up_some(live: LiveService, client: triton_grpc.InferenceServerClient, number: int = 3) -> None:
    """Cancel calls that are in the engine; Triton counts them as under way until it has made their tokens."""
    (boot_id,) = live.rows("SELECT boot_id FROM request ORDER BY id DESC LIMIT 1")[0]
    num_open = "SELECT count(*) FROM request WHERE state = 'admitted' AND canary = 0 AND boot_id = ?"
    calls = [cancellable(client, live, num_tokens=8) for _ in range(number)]
    wait_until(lambda: live.rows(num_open, boot_id) == [(number,)])
    for call in calls:
        call.cancel()


def seconds_until(condition: Callable[[], bool], live: LiveService) -> float:
    began = time.monotonic()
    wait_until(condition, 2 * MUCH_TOO_LONG_S, live.output)
    return time.monotonic() - began


def test_pages_are_there_while_the_files_are_checked(tmp_path):
    live = LiveService(tmp_path)
    with (live.release_dir / "engine" / "large").open("wb") as file:
        file.truncate(1 << 40)  # takes an hour to read, and no room
    live.start()
    try:
        wait_until(lambda: live.readiness()["reasons"] == ["server: checking the release's files"], 60, live.output)
    finally:
        live.end()


def test_a_second_signal_waits_for_nobody(tmp_path):
    with LiveService(tmp_path, "embedded") as live:
        asking = threading.Thread(target=lambda: live.ask(max_tokens=4000, min_tokens=4000))
        asking.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        family = live.family()
        for number in (signal.SIGINT, signal.SIGINT):
            os.kill(live.process.pid, number)
            time.sleep(1)
        assert live.process.wait(10) == 1
        asking.join()
        assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_server_that_nobody_runs_is_not_ready(live):
    said = live.llmstack("ready", "--url", f"http://{HOST}:1/readyz", "--json")
    assert said.returncode == 1
    document = json.loads(said.stdout)
    assert document["ready"] is False
    assert "does not answer" in document["reasons"][0]


def test_a_ledger_that_is_none_is_named_and_left_alone(tmp_path: Path):
    live = LiveService(tmp_path)
    live.state_dir.mkdir()
    (live.state_dir / "ledger.db").write_bytes(b"no database" * 1000)
    live.start()
    try:
        assert live.process.wait(60) == 1
        assert "file is not a database" in live.output()
        assert (live.state_dir / "ledger.db").read_bytes() == b"no database" * 1000
    finally:
        live.end()
