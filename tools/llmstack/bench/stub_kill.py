"""How long clients get no good answers after a policy stub was killed under load."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from llmstack.bench.load import Workload
from llmstack.bench.served_stack import ServedStack
from llmstack.client.ensemble_client import Headers, open_grpc, send_over

_BEFORE_S = 2.0
_AFTER_S = 3.0
"""Load goes on for this long after the first good answer."""
_TIMEOUT_S = 120.0
_PAUSE_S = 0.05  # of a client whose request failed at once


class StubKill(NamedTuple):
    """What a kill did. `good_after_s` is from the kill to the first good answer to a request sent after it.

    `errors` counts the failed requests by code, or by status if there was no code.
    """

    model: str
    concurrency: int
    good_after_s: float | None
    errors: dict[str, int]
    num_good_before: int
    num_good_after: int
    engine_pid_before: int | None
    engine_pid_after: int | None
    server_restarts: int | None


class _Answer(NamedTuple):
    sent_s: float
    ended_s: float
    error: str


def measure_stub_kill(stack: ServedStack, headers: Headers, workload: Workload, model: str) -> StubKill:
    """Kill the stub of `model` under the workload, in an endless loop of its clients.

    Raises:
        LookupError: the model has no stub.
    """
    answers: list[_Answer] = []
    ends = threading.Event()
    numbers = itertools.count()
    pid_before = stack.engine_pid

    def work() -> None:
        with open_grpc(stack.urls) as client:
            while not ends.is_set():
                sent_s = time.monotonic()
                reply = send_over(client, workload.inputs_of(next(numbers)), headers)
                error = (reply.code or reply.status or "no answer") if reply.error else ""
                answers.append(_Answer(sent_s, time.monotonic(), error))
                if error:
                    ends.wait(_PAUSE_S)

    with ThreadPoolExecutor(workload.concurrency) as clients:
        running = [clients.submit(work) for _ in range(workload.concurrency)]
        try:
            time.sleep(_BEFORE_S)
            killed_s = time.monotonic()
            stack.kill_stub(model)
            _wait_for_good_answer(answers, killed_s)
            time.sleep(_AFTER_S)
        finally:
            ends.set()
        for future in running:
            future.result()
    good = [answer for answer in answers if not answer.error]
    after = [answer for answer in good if answer.sent_s > killed_s]
    return StubKill(
        model,
        workload.concurrency,
        round(min(answer.ended_s for answer in after) - killed_s, 2) if after else None,
        dict(Counter(answer.error for answer in answers if answer.error)),
        len(good) - len(after),
        len(after),
        pid_before,
        stack.engine_pid,
        _restarts(stack.readiness()),
    )


def _wait_for_good_answer(answers: list[_Answer], killed_s: float) -> None:
    deadline_s = killed_s + _TIMEOUT_S
    while time.monotonic() < deadline_s:
        if any(not answer.error and answer.sent_s > killed_s for answer in list(answers)):
            return
        time.sleep(_PAUSE_S)


def _restarts(readiness: dict[str, Any]) -> int | None:
    restarts = readiness.get("restarts")
    return None if restarts is None else int(restarts)
