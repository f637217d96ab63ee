"""Prints what the guard adds to a POST of 20 kB through HAProxy: `python -m tests.docker.time_gateway`.

Each body goes three ways in turn: with the guard reading it, with the guard on a path that it does not read, and
without a guard. HAProxy itself answers behind all three.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from llmstack.gateway.backend import Backend
from llmstack.gateway.configuration import GUARD_FILE, GatewayConfiguration, write_configuration
from tests.docker.running_gateway import free_ports

NUM_RUNS = 2_000
READ, NOT_READ = "/v2/models/ensemble/infer", "/v2/models/other/infer"
TEXTS = {
    "plain text": "The quick brown fox jumps over the lazy dog. " * 440,
    "an escape every 8 bytes": '{"type":"string","minLength":1},' * 520,
}
CONFIGURATION = """
global
    nbthread 1
    lua-prepend-path {directory}/?.lua
    tune.lua.session-timeout 0
    lua-load-per-thread {directory}/guard.lua
defaults
    mode http
    timeout client 20s
    timeout server 20s
    timeout connect 2s
    http-reuse always
frontend guarded
    bind 127.0.0.1:{ports[0]}
    filter lua.guard http 4194304 20 32
    default_backend answer
frontend bare
    bind 127.0.0.1:{ports[1]}
    default_backend answer
backend answer
    server answer 127.0.0.1:{ports[2]}
frontend answer
    bind 127.0.0.1:{ports[2]}
    http-request wait-for-body time 5s
    http-request return status 200 content-type text/plain string ok
"""


def body_of(text: str) -> bytes:
    tensor = {"name": "messages", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "text_output"}]}).encode()


def measure(guarded: httpx.Client, bare: httpx.Client, body: bytes) -> list[float]:
    """The median time of each way in milliseconds."""
    ways = ((guarded, READ), (guarded, NOT_READ), (bare, READ))
    times: list[list[float]] = [[], [], []]
    for _ in range(NUM_RUNS):
        for (client, path), way_times in zip(ways, times, strict=True):
            start = time.perf_counter()
            client.post(path, content=body).raise_for_status()
            way_times.append((time.perf_counter() - start) * 1_000)
    return [statistics.median(way_times) for way_times in times]


def main() -> None:
    ports = free_ports(3)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        backend = Backend("127.0.0.1", 1, 2, 3)
        configuration = GatewayConfiguration([backend], "/none.pem", str(directory / GUARD_FILE))
        write_configuration(configuration, directory / "unused.cfg")
        path = directory / "haproxy.cfg"
        path.write_text(CONFIGURATION.format(directory=directory, ports=ports))
        with subprocess.Popen(["haproxy", "-db", "-f", str(path)], stderr=subprocess.DEVNULL) as haproxy:
            guarded, bare = (
                httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=5))
                for port in ports[:2]
            )
            for kind, text in TEXTS.items():
                body = body_of(text)
                read, not_read, without = measure(guarded, bare, body)
                print(
                    f"{len(body):,} bytes, {kind}: p50 {read:.3f} ms; reading adds {read - not_read:.3f} ms, "
                    f"the whole guard {read - without:.3f} ms"
                )
            haproxy.kill()


if __name__ == "__main__":
    main()
