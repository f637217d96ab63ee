"""A state directory that is full or read-only: nothing is served unrecorded, nothing is damaged, service comes back."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llmstack.supervision.supervisor import MAX_FAILURES_IN_ROW
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import Load
from tests.soak import ONLY_IN_SOAK

SIZE = "32m"

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def live(tmp_path: Path, small_disk: Path) -> Iterator[LiveService]:
    service = LiveService(tmp_path / "service")
    service.state_dir = small_disk / "state"
    with service:
        yield service


def fill(directory: Path) -> Path:
    """Take all the room there is."""
    filler = directory / "filler"
    file = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    os.write(file, b"\0" * size)
    finally:
        os.close(file)
    return filler


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nobody can open a file there for writing meanwhile, or make or remove one.

    The file system itself can't be remounted so while a server has its log and its ledger open, as it would be after a
    fault; another mount of it, laid over the first, can.
    """
    for options in (["--bind", str(directory)], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def wait_for_failed_canaries(live: LiveService, num_canaries: int) -> None:
    latencies_ms = set()

    def have_failed() -> bool:
        canary = live.readiness()["canary"]
        if not canary["ok"]:
            latencies_ms.add(canary["latency_ms"])
        return len(latencies_ms) >= num_canaries

    wait_until(have_failed, 120, live.output)


def check_whole(live: LiveService) -> None:
    assert live.rows("PRAGMA integrity_check") == [("ok",)]
    verified = live.llmstack("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stdout


def test_a_full_disk_refuses_and_service_returns_with_the_room(live, small_disk):
    assert live.send_request().status == 200
    filler = fill(small_disk)
    with Load(live, num_clients=2, pause_s=0.02) as load:
        wait_until(lambda: any(asked.reply.status != 200 for asked in load.sent), 120)
        wait_until(lambda: not live.is_ready())
        refused = live.readiness()["reasons"]
        wait_for_failed_canaries(live, MAX_FAILURES_IN_ROW + 1)  # more than restart a server that could be mended so
        filler.unlink()
        wait_until(live.is_ready, 120, live.output)
        num_before = len(load.answered)
        wait_until(lambda: len(load.answered) > num_before, 120, live.output)
    assert any("No space left" in reason or "full" in reason for reason in refused), refused
    refusals = {asked.reply.code for asked in load.sent if asked.reply.status != 200}
    assert refusals == {"internal"}
    assert live.readiness()["restarts"] == 0
    answered = {asked.request_id for asked in load.answered}
    settled = {row[0] for row in live.rows("SELECT request_id FROM request WHERE state = 'settled'")}
    assert answered <= settled  # nobody was answered unrecorded
    check_whole(live)


def test_a_read_only_state_directory_is_refused_at_the_start(tmp_path, small_disk):
    live = LiveService(tmp_path / "service")
    live.state_dir = small_disk / "state"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    live.start()
    try:
        assert live.process.wait(60) == 1
        assert f"the state directory {live.state_dir} can't be written: read-only file system" in live.output()
        assert "--state-dir" in live.output()
    finally:
        live.kill_all()


def test_a_server_that_dies_while_the_directory_is_read_only_is_back_when_it_no_longer_is(live, small_disk):
    pid = live.process.pid
    with read_only(small_disk):
        wait_until(lambda: any("Read-only file system" in reason for reason in live.readiness()["reasons"]))
        live.triton().kill()
        wait_until(lambda: "restart failed: " in live.output(), 60, live.output)
        assert not live.is_ready()
    wait_until(live.is_ready, 120, live.output)
    assert live.send_request().status == 200
    assert (live.process.pid, live.process.is_running()) == (pid, True)
    wait_until(lambda: live.metric('llm_alerts_total{rule="engine_unhealthy"}') >= 1)  # written afterwards
    check_whole(live)


@ONLY_IN_SOAK
def test_a_read_only_directory_keeps_no_drain_from_answering_what_is_under_way(tmp_path, small_disk):
    live = LiveService(tmp_path / "service", "embedded")
    live.state_dir = small_disk / "state"
    with live:
        slow: list = []
        asking = threading.Thread(target=lambda: slow.append(live.send_request(max_tokens=600, min_tokens=600)))
        asking.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        with read_only(small_disk):
            live.process.terminate()
            assert live.process.wait(60) == 0
        asking.join()
        assert (slow[0].status, slow[0].outputs["num_output_tokens"]) == (200, [600])
        assert "the mark of a drain could not be changed: " in live.output()
        assert "Traceback" not in live.output()
