"""kill -9 of whatever there is, at random moments under load: service comes back and the books are right.

LLMSTACK_SOAK_KILLS=30 (`make soak`) asks for more kills, one of three followed by another in the midst of its recovery,
and that the service is back 15 s after the last one at most; the suite has a few only, and is patient with a busy
machine.
"""

import contextlib
import os
import random
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import psutil
import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from tests.integration.alert_assertions import (
    check_books,
    check_cost_breaches,
    is_all_told,
    once_by_id,
    sum_of,
    webhook_environment,
)
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import DEAR_FROM, Load
from tests.webhook_receiver import WebhookReceiver, new_secret

NUM_SOAK_KILLS = int(os.environ.get("LLMSTACK_SOAK_KILLS", "0"))
NUM_KILLS = NUM_SOAK_KILLS or 3
BACK_WITHIN_S = 15 if NUM_SOAK_KILLS else 90
VICTIMS = ("preprocess", "tensorrt_llm", "postprocess", "tritonserver", "parent")
AGAIN_EVERY = 3
LONGEST_PAUSE_S = 3.0  # the fastest recovery takes as long
SEED = 20261123

pytestmark = [pytest.mark.server, pytest.mark.timeout(300 + 60 * NUM_KILLS)]


@pytest.fixture
def receivers() -> Iterator[dict[str, WebhookReceiver]]:
    with WebhookReceiver(new_secret()) as readiness, WebhookReceiver(new_secret()) as finance:
        yield {READINESS: readiness, FINANCE: finance}


def test_kills_lose_no_breach_no_row_and_no_time(tmp_path, receivers):
    environment = webhook_environment(tmp_path, receivers)
    with LiveService(tmp_path / "service", environment=environment, thresholds=DEAR_FROM) as live:
        with Load(live) as load:
            num_outages, back_after_s = kill_at_random(live)
        report(back_after_s, load)
        assert max(seconds for _, seconds in back_after_s) <= BACK_WITHIN_S
        wait_until(lambda: is_all_told(live), 180, live.output)
        check_events(live, load, receivers, num_outages)
        assert live.rows("SELECT count(*) FROM request WHERE state = 'admitted' AND canary = 0") == [(0,)]
        live.process.terminate()
        assert live.process.wait(60) == 0
        check_books(live, load)


class Blow(NamedTuple):
    """One kill; `again` is who is killed next, so many seconds later, while the service recovers."""

    victim: str
    again: str = ""
    pause_s: float = 0.0


def draw_blows(chance: random.Random) -> list[Blow]:
    """`NUM_KILLS`, each victim as often as the others; in a soak one of `AGAIN_EVERY` is followed by another."""
    victims: list[str] = []
    while len(victims) < NUM_KILLS:
        victims += chance.sample(VICTIMS, len(VICTIMS))
    return [
        Blow(victim, chance.choice(VICTIMS), chance.uniform(0.0, LONGEST_PAUSE_S))
        if NUM_SOAK_KILLS and number % AGAIN_EVERY == 1
        else Blow(victim)
        for number, victim in enumerate(victims[:NUM_KILLS])
    ]


def kill_at_random(live: LiveService) -> tuple[tuple[int, int], list[tuple[str, float]]]:
    """How many outages the parent must, and may, have reported; and the seconds that each recovery took."""
    chance = random.Random(SEED)
    num_certain = num_possible = 0
    back_after_s = []
    for blow in draw_blows(chance):
        time.sleep(chance.uniform(0.0, 3.0))
        was_ready = live.is_ready()
        back_after_s.append((" and ".join(filter(None, blow[:2])), strike(live, blow)))
        # A parent that is killed itself may take what it saw with it.
        num_certain += was_ready and "parent" not in blow
        num_possible += (blow.victim != "parent") + (blow.again not in ("", "parent"))
    wait_until(live.is_ready, BACK_WITHIN_S, live.output)
    return (num_certain, num_possible), back_after_s


def strike(live: LiveService, blow: Blow) -> float:
    """Seconds from the last kill until a server that was started afterwards answers."""
    server, doomed = kill(live, blow.victim)
    if blow.again:
        time.sleep(blow.pause_s)
        server, also_doomed = kill(live, blow.again, server)
        doomed += also_doomed
    began = time.monotonic()
    wait_until(lambda: keep_up(live) and is_back(live, server), 120, live.output)
    seconds = time.monotonic() - began
    assert psutil.wait_procs(doomed, timeout=10)[1] == []
    return seconds


def kill(
    live: LiveService, victim: str, before: psutil.Process | None = None
) -> tuple[psutil.Process | None, list[psutil.Process]]:
    """Kill the victim, of another server than `before`; the server that goes down, and all that must go with it."""
    found: list[psutil.Process] = []
    wait_until(lambda: keep_up(live) and find(live, victim, before, found), 60, live.output)
    process, family = found[0], live.family()
    server = next((child for child in family if child.name() == "tritonserver"), None)
    with contextlib.suppress(psutil.NoSuchProcess):  # the parent ended it just now
        process.kill()
    if victim == "parent":
        live.process.wait()
        live.start()
        return server, family
    return server, [server] if server else []


def find(live: LiveService, victim: str, before: psutil.Process | None, found: list[psutil.Process]) -> bool:
    with contextlib.suppress(StopIteration, LookupError, psutil.NoSuchProcess):
        if victim == "parent":
            found.append(live.process)
        elif (server := live.triton()) != before:
            found.append(server if victim == "tritonserver" else live.stub(victim))
    return bool(found)


def keep_up(live: LiveService) -> bool:
    """Start a parent that gave up, as a container runtime does: one whose first start is disturbed ends with 1."""
    if live.process.poll() is not None:
        live.start()
    return True


def is_back(live: LiveService, killed: psutil.Process | None) -> bool:
    try:
        return live.triton() != killed and live.ask().status == 200
    except (StopIteration, psutil.NoSuchProcess):
        return False


def check_events(
    live: LiveService, load: Load, receivers: dict[str, WebhookReceiver], num_outages: tuple[int, int]
) -> None:
    """What the webhooks got is what clients saw flagged, and what the ledger says of answers that nobody saw."""
    check_cost_breaches(live, load, receivers)
    assert len(load.answered) > 5 * NUM_KILLS
    readiness = once_by_id(receivers[READINESS])
    assert num_outages[0] <= sum_of(readiness, "engine_unhealthy") <= num_outages[1]
    assert {event["rule"] for event in readiness} == {"cost", "engine_unhealthy"}


def report(back_after_s: list[tuple[str, float]], load: Load) -> None:
    seconds = [each for _, each in back_after_s]
    num_again = sum(" and " in victims for victims, _ in back_after_s)
    print(
        f"\n{len(seconds)} kills, {num_again} of them followed by another (seed {SEED}), {len(load.answered)} of "
        f"{len(load.asked)} requests answered; back after {statistics.median(seconds):.1f} s (median), "
        f"{min(seconds):.1f} s (least), {max(seconds):.1f} s (most)"
    )
    for victims, each in sorted(back_after_s):
        print(f"  {victims}: {each:.1f}")
