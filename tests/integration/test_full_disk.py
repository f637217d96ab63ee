"""A full or read-only state directory: nothing is served unrecorded, nothing is damaged, and service resumes."""

import asyncio
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llmstack.client.stream_client import Piece, open_streams, stream_grpc
from llmstack.supervision.supervisor import MAX_FAILURES_IN_ROW
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import Load
from tests.soak import ONLY_IN_SOAK

SIZE = "32m"
NUM_STREAMS, NUM_ROUNDS = 16, 10
# No stream waits that long: it would be one that never ends.
STREAMS_TIMEOUT_S = 120

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
    """Fill the file system completely."""
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
    """Make `directory` read-only inside the block.

    The file system itself can't be remounted read-only while a server has files open for writing there; a bind mount
    over it can.
    """
    for options in (["--bind", str(directory)], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def wait_for_failed_canaries(live: LiveService, num_canaries: int) -> None:
    latencies_ms = set()

    def enough_have_failed() -> bool:
        canary = live.readiness()["canary"]
        if not canary["ok"]:
            latencies_ms.add(canary["latency_ms"])
        return len(latencies_ms) >= num_canaries

    wait_until(enough_have_failed, 120, live.output)


def check_intact(live: LiveService) -> None:
    assert live.rows("PRAGMA integrity_check") == [("ok",)]
    verified = live.llmstack("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
def test_a_full_disk_rejects_requests_and_service_resumes_with_free_space(live, small_disk):
    assert live.send_request().status == 200
    filler = fill(small_disk)
    with Load(live, num_clients=2, pause_s=0.02) as load:
        wait_until(lambda: any(sent.reply.status != 200 for sent in load.sent), 120)
        wait_until(lambda: not live.is_ready())
        reasons = live.readiness()["reasons"]
        wait_for_failed_canaries(live, MAX_FAILURES_IN_ROW + 1)  # enough to restart the server if a restart could help
        filler.unlink()
        wait_until(live.is_ready, 120, live.output)
        num_before = len(load.answered)
        wait_until(lambda: len(load.answered) > num_before, 120, live.output)
    assert any("No space left" in reason or "full" in reason for reason in reasons), reasons
    codes = {sent.reply.code for sent in load.sent if sent.reply.status != 200}
    assert codes == {"ledger_unavailable"}
    assert live.readiness()["restarts"] == 0
    answered = {sent.request_id for sent in load.answered}
    settled = {row[0] for row in live.rows("SELECT request_id FROM request WHERE state = 'settled'")}
    assert answered <= settled  # every answered request is recorded
    check_intact(live)


def test_a_read_only_state_directory_is_rejected_at_startup(tmp_path, small_disk):
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


@pytest.mark.slow
def test_a_server_killed_while_the_directory_is_read_only_restarts_once_it_is_writable(live, small_disk):
    pid = live.process.pid
    with read_only(small_disk):
        wait_until(lambda: any("Read-only file system" in reason for reason in live.readiness()["reasons"]))
        live.triton().kill()
        wait_until(lambda: "restart failed: " in live.output(), 60, live.output)
        assert not live.is_ready()
    wait_until(live.is_ready, 120, live.output)
    assert live.send_request().status == 200
    assert (live.process.pid, live.process.is_running()) == (pid, True)
    wait_until(lambda: live.metric('llm_alerts_total{rule="engine_unhealthy"}') >= 1)  # recorded once writable
    check_intact(live)


@ONLY_IN_SOAK
def test_a_drain_answers_requests_in_flight_with_a_read_only_directory(tmp_path, small_disk):
    live = LiveService(tmp_path / "service", "embedded")
    live.state_dir = small_disk / "state"
    with live:
        slow: list = []
        thread = threading.Thread(target=lambda: slow.append(live.send_request(max_tokens=600, min_tokens=600)))
        thread.start()
        wait_until(lambda: live.rows("SELECT 1 FROM request WHERE canary = 0 AND state = 'admitted'") != [])
        with read_only(small_disk):
            live.process.terminate()
            assert live.process.wait(60) == 0
        thread.join()
        assert (slow[0].status, slow[0].outputs["num_output_tokens"]) == (200, [600])
        assert "the mark of a drain could not be changed: " in live.output()
        assert "Traceback" not in live.output()


async def read_stream(live: LiveService, client, request_id: str, num_tokens: int, begun: set[str]) -> Piece:
    """The last response of one stream; `begun` gets its id with the first one."""
    inputs = {"text_input": "hello", "max_tokens": num_tokens, "min_tokens": num_tokens}
    headers = {**live.headers, "X-Tenant": "acme", "X-Request-Id": request_id}
    last = None
    async for piece in stream_grpc(client, inputs, headers):
        assert last is None or not last.is_last
        begun.add(request_id)
        last = piece
    assert last is not None
    assert last.is_last
    return last


async def read_streams(live: LiveService, client, name: str, num_tokens: int) -> dict[str, str]:
    """Run all streams at once. Returns for each request id the code of its end, empty for an answer."""
    ids = [f"{name}-{number}" for number in range(NUM_STREAMS)]
    streams = [read_stream(live, client, request_id, num_tokens, set()) for request_id in ids]
    pieces = await asyncio.wait_for(asyncio.gather(*streams), STREAMS_TIMEOUT_S)
    return {request_id: piece.code if piece.error else "" for request_id, piece in zip(ids, pieces, strict=True)}


async def streams_across_a_full_disk(live: LiveService, small_disk: Path) -> dict[str, str]:
    """Streams that are cut by the full disk, streams that begin meanwhile, and streams afterwards: how each ended."""
    begun: set[str] = set()
    cut = {f"cut-{number}": 40 + 25 * number for number in range(NUM_STREAMS)}  # they end one after the other
    async with open_streams(live) as client:
        tasks = [asyncio.create_task(read_stream(live, client, *each, begun)) for each in cut.items()]
        while len(begun) < NUM_STREAMS:
            await asyncio.sleep(0.01)
        filler = fill(small_disk)
        pieces = await asyncio.wait_for(asyncio.gather(*tasks), STREAMS_TIMEOUT_S)
        ends = {name: piece.code if piece.error else "" for name, piece in zip(cut, pieces, strict=True)}
        for turn in range(NUM_ROUNDS):
            ends.update(await read_streams(live, client, f"full-{turn}", 10))
        filler.unlink()
        for turn in range(NUM_ROUNDS):
            ends.update(await read_streams(live, client, f"free-{turn}", 10))
    return ends


@ONLY_IN_SOAK
def test_each_stream_on_a_full_disk_ends_with_an_answer_or_the_declared_error_and_the_next_ones_work(
    tmp_path, small_disk
):
    environment = {"LLMSTACK_ENGINE_OPTIONS": "token_interval_ms=10"}
    live = LiveService(tmp_path / "service", "echo", environment, thresholds={"max_queue_delay_us": 60_000_000})
    live.state_dir = small_disk / "state"
    with live:
        stub = live.stub("ensemble_stream")
        ends = asyncio.run(streams_across_a_full_disk(live, small_disk))
        wait_until(lambda: not live.rows("SELECT 1 FROM request WHERE state = 'admitted' AND canary = 0"), 120)
        check_stream_rows(live, ends)
        assert stub.is_running()  # no metric file or shared memory of the ledger has killed it
        assert live.readiness()["restarts"] == 0
        wait_until(live.is_ready, 120, live.output)
        check_intact(live)


def check_stream_rows(live: LiveService, ends: dict[str, str]) -> None:
    phases: dict[str, Counter[str]] = {}
    for request_id, code in ends.items():
        phases.setdefault(request_id.split("-")[0], Counter())[code] += 1
    assert phases["cut"]["ledger_unavailable"] + phases["cut"][""] == NUM_STREAMS
    assert phases["cut"]["ledger_unavailable"] > 0
    assert phases["full"] == {"ledger_unavailable": NUM_STREAMS * NUM_ROUNDS}
    assert phases["free"] == {"": NUM_STREAMS * NUM_ROUNDS}
    columns = "request_id, state, code, actual_nano_usd > 0"
    rows = {row[0]: row[1:] for row in live.rows(f"SELECT {columns} FROM request WHERE canary = 0")}
    answered = {request_id for request_id, code in ends.items() if not code}
    assert {request_id for request_id, row in rows.items() if row == ("settled", "", 1)} == answered
    withheld = {request_id: row for request_id, row in rows.items() if request_id not in answered}
    assert set(withheld.values()) <= {("refused", "ledger_unavailable", 0)}
    assert len(rows) <= len(ends)
