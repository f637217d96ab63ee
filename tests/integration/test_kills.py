"""kill -9 of whatever there is, at random moments under load: service comes back and the books are right.

LLMSTACK_SOAK_KILLS=30 (`make soak`) asks for more kills, and that each recovery takes 15 s at most; the suite has a few
only, and is patient with a busy machine.
"""

import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from llm_policy.outbox import FINANCE, READINESS
from llmstack.events.endpoint import secret_variable, url_variable
from tests.integration.live_service import LiveService, wait_until
from tests.integration.load import DEAR_FROM, Asked, Load
from tests.webhook_receiver import WebhookReceiver, new_secret, write_secrets

NUM_SOAK_KILLS = int(os.environ.get("LLMSTACK_SOAK_KILLS", "0"))
NUM_KILLS = NUM_SOAK_KILLS or 5
BACK_WITHIN_S = 15 if NUM_SOAK_KILLS else 90
VICTIMS = ("preprocess", "tensorrt_llm", "postprocess", "tritonserver", "parent")
SEED = 20261123

pytestmark = [pytest.mark.server, pytest.mark.timeout(300 + 60 * NUM_KILLS)]


@pytest.fixture
def receivers() -> Iterator[dict[str, WebhookReceiver]]:
    with WebhookReceiver(new_secret()) as readiness, WebhookReceiver(new_secret()) as finance:
        yield {READINESS: readiness, FINANCE: finance}


def test_kills_lose_no_breach_no_row_and_no_time(tmp_path, receivers):
    environment = {}
    for name, receiver in receivers.items():
        environment[url_variable(name)] = receiver.url
        environment[secret_variable(name)] = str(write_secrets(tmp_path / f"{name}.secret", receiver.secret))
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


def kill_at_random(live: LiveService) -> tuple[tuple[int, int], list[tuple[str, float]]]:
    """How many outages the parent must, and may, have reported; and the seconds that each recovery took."""
    chance = random.Random(SEED)
    victims: list[str] = []
    while len(victims) < NUM_KILLS:
        victims += chance.sample(VICTIMS, len(VICTIMS))
    num_certain = num_possible = 0
    back_after_s = []
    for victim in victims[:NUM_KILLS]:
        time.sleep(chance.uniform(0.0, 3.0))
        was_ready = live.is_ready()
        back_after_s.append((victim, kill(live, victim)))
        num_certain += was_ready and victim != "parent"
        num_possible += victim != "parent"
    wait_until(live.is_ready, BACK_WITHIN_S, live.output)
    return (num_certain, num_possible), back_after_s


def kill(live: LiveService, victim: str) -> float:
    """Seconds until a server that was started afterwards answers."""
    server, family = live.triton(), live.family()
    process = {"parent": live.process, "tritonserver": server}.get(victim) or live.stub(victim)
    began = time.monotonic()
    process.kill()
    if victim == "parent":
        live.process.wait()
        live.start()
    wait_until(lambda: is_back(live, server), 120, live.output)
    seconds = time.monotonic() - began
    assert psutil.wait_procs(family if victim == "parent" else [server], timeout=10)[1] == []
    return seconds


def is_back(live: LiveService, killed: psutil.Process) -> bool:
    try:
        return live.triton() != killed and live.ask().status == 200
    except (StopIteration, psutil.NoSuchProcess):
        return False


def is_all_told(live: LiveService) -> bool:
    """No window is open and nothing waits for its webhook."""
    open_windows = "SELECT count(*) FROM alert_window"
    pending = "SELECT count(*) FROM delivery WHERE state <> 'delivered'"
    return live.rows(open_windows) == live.rows(pending) == [(0,)]


def check_events(
    live: LiveService, load: Load, receivers: dict[str, WebhookReceiver], num_outages: tuple[int, int]
) -> None:
    """What the webhooks got is what clients saw flagged, and what the ledger says of answers that nobody saw."""
    readiness, finance = (once_by_id(receivers[name]) for name in (READINESS, FINANCE))
    flagged = {asked.request_id for asked in load.answered if "cost_breach" in asked.reply.outputs["flags"]}
    listed = Counter(request["request_id"] for event in finance for request in event.get("requests", []))
    in_ledger = {
        request_id for (request_id,) in live.rows("SELECT request_id FROM request WHERE flags LIKE '%cost_breach%'")
    }
    assert len(flagged) > NUM_KILLS
    assert flagged == {asked.request_id for asked in load.answered if asked.is_dear}
    assert set(listed.values()) == {1}
    assert flagged <= set(listed)
    assert set(listed) == in_ledger
    assert set(listed) <= {asked.request_id for asked in load.asked if asked.is_dear}
    assert sum_of(readiness, "cost") == len(listed)
    assert num_outages[0] <= sum_of(readiness, "engine_unhealthy") <= num_outages[1]
    assert {event["rule"] for event in readiness} == {"cost", "engine_unhealthy"}


def once_by_id(receiver: WebhookReceiver) -> list[dict[str, Any]]:
    """The data of each event that was received; a repeated one must be the same to the byte."""
    assert receiver.forgeries == []
    bodies = {each.id: each.body for each in receiver.received}
    assert all(bodies[each.id] == each.body for each in receiver.received)
    return [json.loads(body)["data"] for body in bodies.values()]


def sum_of(events: list[dict[str, Any]], rule: str) -> int:
    return sum(event["count"] for event in events if event["rule"] == rule)


def check_books(live: LiveService, load: Load) -> None:
    verified = live.llmstack("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    rows = {
        request_id: (state, cost)
        for request_id, state, cost in live.rows(
            "SELECT request_id, state, actual_nano_usd FROM request WHERE request_id <> ''"
        )
    }
    assert all(rows[asked.request_id] == ("settled", nano_usd(asked)) for asked in load.answered)


def nano_usd(asked: Asked) -> int:
    return round(asked.reply.outputs["cost_usd"][0] * 1e9)


def report(back_after_s: list[tuple[str, float]], load: Load) -> None:
    seconds = [each for _, each in back_after_s]
    print(
        f"\n{len(seconds)} kills (seed {SEED}), {len(load.answered)} of {len(load.asked)} requests answered; back"
        f" after {statistics.median(seconds):.1f} s (median), {min(seconds):.1f} s (least), {max(seconds):.1f} s (most)"
    )
    for victim in VICTIMS:
        print(f"  {victim}: {', '.join(f'{each:.1f}' for name, each in back_after_s if name == victim)}")
