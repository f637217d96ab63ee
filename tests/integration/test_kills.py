"""SIGKILL of every process, at random moments under load: the service recovers and the ledger is complete.

LLMSTACK_SOAK_KILLS=30 (`make soak`) sets the number of kills; every third is followed by another during the recovery.
The seconds of each recovery are printed. Single kills are among the tests of supervision, in every run.
"""

import contextlib
import os
import random
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import psutil
import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from tests.integration.alert_assertions import (
    are_all_events_delivered,
    check_cost_breaches,
    check_ledger,
    sum_breaches,
    unique_event_data,
    webhook_environment,
)
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import COSTLY_THRESHOLDS, Load
from tests.webhook_receiver import WebhookReceiver, new_secret

NUM_KILLS = int(os.environ.get("LLMSTACK_SOAK_KILLS", "0"))
RECOVERY_TIMEOUT_S = 120
STUBS = ("preprocess", "tensorrt_llm", "postprocess")
VICTIMS = (*STUBS, "tritonserver", "engine", "parent")
ENDS_THE_ENGINE = {"engine", "parent"}
SECOND_KILL_EVERY = 3
MIN_ANSWERS, MAX_ANSWERS = 6, 200  # between a recovery and the next kill
MAX_PAUSE_S = 3.0  # the fastest recovery takes as long
SEED = 20261123

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not NUM_KILLS, reason="runs only with LLMSTACK_SOAK_KILLS (make soak)"),
    pytest.mark.timeout(300 + 60 * NUM_KILLS),
]


@pytest.fixture
def receivers() -> Iterator[dict[str, WebhookReceiver]]:
    with WebhookReceiver(new_secret()) as readiness, WebhookReceiver(new_secret()) as finance:
        yield {READINESS: readiness, FINANCE: finance}


def test_after_kills_the_service_recovers_and_no_breach_and_no_row_is_lost(tmp_path, receivers):
    environment = webhook_environment(tmp_path, receivers)
    with LiveService(tmp_path / "service", environment=environment, thresholds=COSTLY_THRESHOLDS) as live:
        with Load(live) as load:
            num_outages, recovery_s = kill_at_random(live, load)
        report(recovery_s, load)
        wait_until(lambda: are_all_events_delivered(live), 180, live.output)
        check_events(live, load, receivers, num_outages)
        assert live.rows("SELECT count(*) FROM request WHERE state = 'admitted' AND canary = 0") == [(0,)]
        live.process.terminate()
        assert live.process.wait(120) == 0
        check_ledger(live, load)


class Kill(NamedTuple):
    """The kill of `victim`, and of `second_victim` when set, `pause_s` later during the recovery."""

    victim: str
    second_victim: str = ""
    pause_s: float = 0.0


def draw_kills(chance: random.Random) -> list[Kill]:
    """`NUM_KILLS`, each victim equally often; in a soak one in `SECOND_KILL_EVERY` has a second victim."""
    victims: list[str] = []
    while len(victims) < NUM_KILLS:
        victims += chance.sample(VICTIMS, len(VICTIMS))
    return [
        Kill(victim, chance.choice(VICTIMS), chance.uniform(0.0, MAX_PAUSE_S))
        if number % SECOND_KILL_EVERY == 1
        else Kill(victim)
        for number, victim in enumerate(victims[:NUM_KILLS])
    ]


def has_answered(load: Load, num_requests: int) -> bool:
    return len(load.answered) >= num_requests


def kill_at_random(live: LiveService, load: Load) -> tuple[tuple[int, int], list[tuple[str, float]]]:
    """The least and the greatest number of outages that the parent reported, and the seconds of each recovery."""
    chance = random.Random(SEED)
    num_certain = num_possible = 0
    recovery_s = []
    for planned in draw_kills(chance):
        num_answered = len(load.answered) + chance.randint(MIN_ANSWERS, MAX_ANSWERS)
        wait_until(partial(has_answered, load, num_answered), RECOVERY_TIMEOUT_S, live.output)
        was_ready = live.is_ready()
        recovery_s.append((" and ".join(filter(None, planned[:2])), recover_from(live, planned)))
        # A killed parent may not have reported the outage that it found.
        num_certain += was_ready and "parent" not in planned
        num_possible += (planned.victim != "parent") + (planned.second_victim not in ("", "parent"))
    wait_until(live.is_ready, RECOVERY_TIMEOUT_S, live.output)
    return (num_certain, num_possible), recovery_s


def recover_from(live: LiveService, planned: Kill) -> float:
    """Kill; the seconds from the last kill until the victims are replaced and the service answers."""
    engine_pid = live.readiness()["engine_process"]["pid"]
    dead: list[psutil.Process] = []
    doomed = kill(live, planned.victim, dead)
    if planned.second_victim:
        time.sleep(planned.pause_s)  # a random moment of the recovery
        doomed += kill(live, planned.second_victim, dead)
    began = time.monotonic()
    wait_until(lambda: restart_parent(live) and has_recovered(live, planned, dead), RECOVERY_TIMEOUT_S, live.output)
    seconds = time.monotonic() - began
    assert psutil.wait_procs(doomed, timeout=30)[1] == []
    if not ENDS_THE_ENGINE & {planned.victim, planned.second_victim}:
        assert live.readiness()["engine_process"]["pid"] == engine_pid  # the weights were not loaded again
    return seconds


def kill(live: LiveService, victim: str, dead: list[psutil.Process]) -> list[psutil.Process]:
    """Kill the victim, none of `dead`, to which it is added; the processes that must end with it."""
    found: list[psutil.Process] = []
    wait_until(lambda: restart_parent(live) and find(live, victim, dead, found), 60, live.output)
    process, family = found[0], live.child_processes()
    dead.append(process)
    # A stub that dies with requests stays as a zombie of its server.
    doomed = [] if victim in STUBS else [process]
    with contextlib.suppress(psutil.NoSuchProcess):  # the parent has just ended it
        doomed += process.children(recursive=True) if victim == "tritonserver" else []
        process.kill()
    if victim == "parent":
        live.process.wait()
        live.start()
        return family
    return doomed


def find(live: LiveService, victim: str, dead: list[psutil.Process], found: list[psutil.Process]) -> bool:
    """Add the victim's process to `found` if it lives and is none of `dead`."""
    with contextlib.suppress(StopIteration, LookupError, TypeError, ValueError, psutil.NoSuchProcess):
        process = _process_of(live, victim)
        if process not in dead and process.is_running():
            found.append(process)
    return bool(found)


def _process_of(live: LiveService, victim: str) -> psutil.Process:
    if victim == "parent":
        return psutil.Process(live.process.pid)
    if victim == "engine":
        return psutil.Process(live.readiness()["engine_process"]["pid"])
    return live.triton() if victim == "tritonserver" else live.stub(victim)


def restart_parent(live: LiveService) -> bool:
    """Restart a parent that has ended, as a container runtime does: one whose first start fails exits with 1."""
    if live.process.poll() is not None:
        live.start()
    return True


def has_recovered(live: LiveService, planned: Kill, dead: list[psutil.Process]) -> bool:
    """Whether another process has taken the place of each victim, and the service is ready and answers."""
    victims = [victim for victim in (planned.victim, planned.second_victim) if victim not in ("", "parent")]
    if not all(find(live, victim, dead, []) for victim in victims):
        return False
    try:
        return live.is_ready() and live.send_request().status == 200
    except (StopIteration, psutil.NoSuchProcess):
        return False


def check_events(
    live: LiveService, load: Load, receivers: dict[str, WebhookReceiver], num_outages: tuple[int, int]
) -> None:
    """The events match the flags that clients received, and the ledger's rows of answers that no client received."""
    check_cost_breaches(live, load, receivers)
    assert len(load.answered) > 5 * NUM_KILLS
    readiness = unique_event_data(receivers[READINESS])
    assert num_outages[0] <= sum_breaches(readiness, "engine_unhealthy") <= num_outages[1]
    assert {event["rule"] for event in readiness} == {"cost", "engine_unhealthy"}


def report(recovery_s: list[tuple[str, float]], load: Load) -> None:
    seconds = [each for _, each in recovery_s]
    num_second = sum(" and " in victims for victims, _ in recovery_s)
    print(
        f"\n{len(seconds)} kills, {num_second} of them followed by another (seed {SEED}), {len(load.answered)} of "
        f"{len(load.sent)} requests answered; recovery after {statistics.median(seconds):.1f} s (median), "
        f"{min(seconds):.1f} s (min), {max(seconds):.1f} s (max)"
    )
    for victims, each in sorted(recovery_s):
        print(f"  {victims}: {each:.1f}")
