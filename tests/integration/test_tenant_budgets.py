"""A tenant's budget holds on a live server with eight writing stubs and 64 clients, also when stubs are killed."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from llm_policy.pricing import NANO_USD_PER_USD
from llmstack.paths import MODEL_REPOSITORY
from tests.integration.live_service import STUB, LiveService, wait_until

NUM_REQUESTS, NUM_AFFORDABLE, NUM_CLIENTS = 5_000, 1_000, 64
NUM_INSTANCES = 4  # of preprocess and of postprocess
TEXT = "what does this cost"

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveService]:
    repository = shutil.copytree(MODEL_REPOSITORY, tmp_path / "models")
    for model in ("preprocess", "postprocess"):
        for path in (repository / model).glob("*.pbtxt"):
            text = path.read_text()
            assert "count: 1 " in text
            path.write_text(text.replace("count: 1 ", f"count: {NUM_INSTANCES} "))
    environment = {"LLMSTACK_MODEL_REPOSITORY": str(repository), "LLMSTACK_REQUIRE_API_KEYS": "1"}
    engine = {"max_queue_size": 1_000}
    with LiveService(tmp_path / "service", "echo", environment, engine=engine) as service:
        yield service


class Watch:
    """Reads a tenant's account again and again while the block runs, and keeps the most that was ever used."""

    def __init__(self, live: LiveService, tenant: str) -> None:
        self._live, self._tenant = live, tenant
        self.most = self.most_settled = self.num_reads = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.01):
            ((used, settled),) = self._live.rows(
                "SELECT (SELECT coalesce(sum(spent_nano_usd + reserved_nano_usd), 0) FROM tenant_day "
                "WHERE tenant = ?1), (SELECT coalesce(sum(actual_nano_usd), 0) FROM request WHERE tenant = ?1 "
                "AND state <> 'admitted')",
                self._tenant,
            )
            self.most, self.most_settled = max(self.most, used), max(self.most_settled, settled)
            self.num_reads += 1


def create_tenant(live: LiveService, name: str, *limits: str) -> str:
    done = live.llmstack("tenant", "create", name, "--json", *limits)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["new_key"]["key"]


def cost_of_one(live: LiveService) -> int:
    """What the requests of this test cost, in nano-dollars: all of what they reserve."""
    key = create_tenant(live, "probe")
    reply = live.send_request(headers={"X-Api-Key": key}, text_input=TEXT)
    assert reply.status == 200, reply.error
    ((projected, actual),) = live.rows("SELECT projected_nano_usd, actual_nano_usd FROM request WHERE tenant = 'probe'")
    assert projected == actual
    return actual


def send_all(live: LiveService, key: str, on_answer: Callable[[int], None] = lambda number: None) -> Counter[str]:
    """The number of requests by code, from 64 clients at once; a client that gets no answer waits for readiness."""
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def run(client_number: int) -> None:
        with httpx.Client() as client:
            for _ in range(NUM_REQUESTS // NUM_CLIENTS + (client_number < NUM_REQUESTS % NUM_CLIENTS)):
                reply = live.send_request(client, {"X-Api-Key": key}, text_input=TEXT)
                outcome = "answered" if reply.status == 200 else reply.code or "broken"
                with lock:
                    outcomes[outcome] += 1
                    num_answered = outcomes["answered"]
                if outcome == "answered":
                    on_answer(num_answered)
                elif outcome == "broken":
                    wait_until(live.is_ready, 120, live.output)

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        list(pool.map(run, range(NUM_CLIENTS)))
    return outcomes


def spent(live: LiveService, tenant: str) -> int:
    ((nano_usd,),) = live.rows("SELECT sum(actual_nano_usd) FROM request WHERE tenant = ?", tenant)
    return nano_usd


def as_dollars(nano_usd: int) -> str:
    return f"{nano_usd // NANO_USD_PER_USD}.{nano_usd % NANO_USD_PER_USD:09d}"


def kill_stub(live: LiveService, model: str) -> None:
    """Kill one of the model's stubs; none may be there while they are being replaced."""
    for child in live.triton().children():
        with suppress(psutil.NoSuchProcess):
            if child.name() == STUB and any(word.startswith(f"{model}_0") for word in child.cmdline()):
                child.kill()
                return


def test_exactly_the_requests_that_a_budget_has_room_for_are_answered(live):
    cost = cost_of_one(live)
    budget = NUM_AFFORDABLE * cost
    key = create_tenant(live, "exact", "--max-usd-per-day", as_dollars(budget))
    with Watch(live, "exact") as watch:
        outcomes = send_all(live, key)
    print(dict(outcomes), f"{watch.num_reads} reads of the account, at most {watch.most} of {budget} nano-dollars")
    assert outcomes == {"answered": NUM_AFFORDABLE, "tenant_budget_overrun": NUM_REQUESTS - NUM_AFFORDABLE}
    assert spent(live, "exact") == budget
    assert watch.num_reads and watch.most <= budget and watch.most_settled <= budget
    check_after_kills(live, cost)


def check_after_kills(live: LiveService, cost: int) -> None:
    """Four stubs are killed while the same load runs; nothing is overspent, and a restart frees what died."""
    budget = NUM_AFFORDABLE * cost
    key = create_tenant(live, "killed", "--max-usd-per-day", as_dollars(budget))
    victims = {100: "preprocess", 250: "postprocess", 450: "postprocess", 600: "preprocess"}

    def on_answer(number: int) -> None:
        if number in victims:
            kill_stub(live, victims[number])

    with Watch(live, "killed") as watch:
        outcomes = send_all(live, key, on_answer)
        print(dict(outcomes), f"{watch.num_reads} reads, at most {watch.most} of {budget} nano-dollars")
        assert live.process is not None
        live.process.terminate()
        assert live.process.wait(120) == 0
        live.start()
        live.wait_ready()
        wait_until(lambda: not open_rows(live), 60, live.output)
        while live.send_request(headers={"X-Api-Key": key}, text_input=TEXT).status == 200:
            pass
    assert watch.num_reads and watch.most <= budget and watch.most_settled <= budget
    assert budget - cost < spent(live, "killed") <= budget
    assert live.llmstack("ledger", "verify").returncode == 0


def open_rows(live: LiveService) -> bool:
    return live.rows("SELECT count(*) FROM request WHERE state = 'admitted' AND canary = 0") != [(0,)]
