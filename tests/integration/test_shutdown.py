"""How `llmstack serve` ends: it drains, and a second signal ends it immediately."""

import contextlib
import os
import signal
import threading

import psutil
import pytest

from tests.integration.live_service import LiveService, Reply, wait_until
from tests.soak import ONLY_IN_SOAK

pytestmark = pytest.mark.server

DRAIN_DELAY_S = 20


class SlowRequest:
    """A request in flight, admitted by the server, with an answer of exactly `num_tokens` tokens."""

    def __init__(self, live: LiveService, request_id: str, num_tokens: int) -> None:
        self.replies: list[Reply] = []
        self._thread = threading.Thread(target=self._send, args=(live, request_id, num_tokens))
        self._thread.start()
        admitted = "SELECT 1 FROM request WHERE request_id = ? AND state = 'admitted'"
        wait_until(lambda: live.rows(admitted, request_id) != [], explain=live.output)

    def _send(self, live: LiveService, request_id: str, num_tokens: int) -> None:
        headers = {"X-Request-Id": request_id}
        self.replies.append(live.send_request(headers=headers, max_tokens=num_tokens, min_tokens=num_tokens))

    def reply(self) -> Reply:
        """Wait for the answer."""
        self._thread.join()
        return self.replies[0]


def is_draining(live: LiveService) -> bool:
    return any("draining" in reason for reason in live.readiness()["reasons"])


@pytest.mark.slow
@pytest.mark.ends_server
def test_sigterm_ends_readiness_rejects_new_requests_and_answers_those_in_flight(embedded_service):
    live = embedded_service
    slow = SlowRequest(live, "in-flight", 400)
    family = live.child_processes()
    live.process.terminate()
    wait_until(lambda: is_draining(live))
    rejected = live.send_request(headers={"X-Request-Id": "late"})
    assert (rejected.status, rejected.code) == (503, "draining")
    assert slow.replies == []  # still in flight
    assert live.llmstack("ready", "--port", str(live.ready_port)).returncode == 1
    assert live.process.wait(120) == 0
    assert "Segfault" not in live.log_path.read_text()
    answered = slow.reply()
    assert (answered.status, answered.outputs["num_output_tokens"]) == (200, [400])
    assert psutil.wait_procs(family, timeout=30)[1] == []
    rows = live.rows("SELECT request_id, state FROM request WHERE request_id IN ('in-flight', 'late') ORDER BY id")
    assert rows == [("in-flight", "settled"), ("late", "refused")]
    live.start()  # the drain mark is removed
    live.wait_ready()
    assert live.send_request().status == 200


@pytest.mark.slow
@pytest.mark.ends_server
def test_a_second_signal_ends_the_service_without_waiting_for_requests_in_flight(embedded_service):
    live = embedded_service
    slow = SlowRequest(live, "abandoned", 4_000)
    family = live.child_processes()
    os.kill(live.process.pid, signal.SIGINT)
    wait_until(lambda: is_draining(live))
    os.kill(live.process.pid, signal.SIGINT)
    assert live.process.wait(60) == 1
    assert slow.reply().status != 200
    assert psutil.wait_procs(family, timeout=30)[1] == []


@ONLY_IN_SOAK
@pytest.mark.ends_server
def test_a_signal_to_the_servers_children_also_drains(embedded_service):
    # As systemd by default, but without tritonserver, which would give requests only 5 s: too little on a busy machine.
    live = embedded_service
    slow = SlowRequest(live, "signalled", 300)
    family = live.child_processes()
    for process in (live.process, *live.triton().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    assert live.process.wait(120) == 0
    assert slow.reply().status == 200, slow.replies
    assert psutil.wait_procs(family, timeout=30)[1] == []


@pytest.mark.slow
def test_requests_are_served_during_the_drain_delay_and_rejected_after_it(tmp_path):
    with LiveService(tmp_path, environment={"LLMSTACK_DRAIN_DELAY_S": str(DRAIN_DELAY_S)}) as live:
        live.process.terminate()
        wait_until(lambda: is_draining(live))
        replies = [live.send_request()]

        def is_rejected() -> bool:
            replies.append(live.send_request())
            return replies[-1].status != 200

        wait_until(is_rejected, 120, live.output)
        assert replies[0].status == 200
        assert replies[-1].code == "draining"
        assert live.process.wait(120) == 0
