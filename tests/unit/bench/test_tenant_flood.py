"""The clients of `llmstack bench tenants`, on a server that refuses every other request."""

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.ledger.tenant import TenantLimits, read_limits
from llmstack.bench.flood_clients import ANSWERED, GUIDES, REQUESTS, FloodPlan, FloodProcess
from llmstack.bench.polite_clients import GUIDED, STREAM, UNGUIDED, PoliteClients
from llmstack.bench.tenant_flood import register_tenants
from llmstack.client.ensemble_client import ServerUrls

HOST, KEY = "127.0.0.1", "the-key"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    numbers = itertools.count()
    bodies: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(len(body))
        is_refused = next(self.numbers) % 2
        if self.path.endswith("/generate_stream"):
            assert body["X-Api-Key"] == KEY
            answer = b'data: {"is_last": true}\n\n'
        else:
            assert self.headers["X-Api-Key"] == KEY
            answer = b'{"error": "rate_limited: enough; try again in 1 s"}' if is_refused else b"{}"
        self.send_response(503 if is_refused else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer((HOST, 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_flooders_count_their_answers_by_kind_and_code_and_show_no_key(port: int):
    before = next(_Handler.numbers)
    plan = FloodPlan(HOST, port, f"{HOST}:1", {"X-Api-Key": KEY}, [REQUESTS, GUIDES], 2)
    with FloodProcess(plan) as flooder:
        deadline_s = time.monotonic() + 30
        while next(_Handler.numbers) < before + 200 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        commands = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        assert flooder.cpu_seconds() > 0
    assert any("flood_clients" in command for command in commands)
    assert not any(KEY in command for command in commands)
    assert set(flooder.counts) == {REQUESTS, GUIDES}
    for counts in flooder.counts.values():
        assert set(counts) <= {ANSWERED, "rate_limited"}
        assert sum(counts.values()) > 0


def test_a_flood_sends_no_more_than_its_rate(port: int):
    rate, before, began_s = 50.0, len(_Handler.bodies), time.monotonic()
    plan = FloodPlan(HOST, port, f"{HOST}:1", {"X-Api-Key": KEY}, [REQUESTS, GUIDES], 4, requests_per_s=rate)
    with FloodProcess(plan) as flooder:
        while len(_Handler.bodies) < before + 30:
            assert time.monotonic() < began_s + 30
            time.sleep(0.01)
    num_answers = sum(sum(counts.values()) for counts in flooder.counts.values())
    assert 0 < num_answers <= 1 + rate * (time.monotonic() - began_s)


def test_a_flood_that_gives_way_has_the_lowest_priority(port: int):
    plan = FloodPlan(HOST, port, f"{HOST}:1", {"X-Api-Key": KEY}, [REQUESTS], 1, gives_way=True)
    with FloodProcess(plan) as flooder:
        process = psutil.Process(flooder.pid)
        assert (process.nice(), os.getsid(process.pid)) == (19, process.pid)


def test_polite_clients_note_why_a_request_failed(port: int):
    with PoliteClients(ServerUrls(f"http://{HOST}:{port}"), {"X-Api-Key": KEY}, "order", pause_s=0.0) as clients:
        deadline_s = time.monotonic() + 30
        while {timed.kind for timed in list(clients.timed)} < {UNGUIDED, GUIDED, STREAM}:
            assert time.monotonic() < deadline_s
    failures = {timed.failure for timed in clients.timed if timed.failure}
    assert all(failure.startswith("rate_limited: ") for failure in failures)
    assert all(timed.failure == "" for timed in clients.timed if timed.kind == STREAM)


def test_tenants_are_created_with_their_limits(tmp_path: Path):
    limits = TenantLimits(max_requests_per_minute=60)
    keys = register_tenants(tmp_path / FILE_NAME, {"polite": TenantLimits(), "limited": limits})
    assert len(set(keys.values())) == 2
    with closing(open_read_only(tmp_path / FILE_NAME)) as connection:
        assert (read_limits(connection, "limited"), read_limits(connection, "polite")) == (limits, TenantLimits())
