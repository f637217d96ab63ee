"""The clients of one tenant that flood a server, as a process of their own: their processor time is theirs alone.

The process reads a `FloodPlan` as one line of JSON from its standard input (so no key is on a command line), floods
until the input is closed, and then writes the number of its requests by kind and answer as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
import ssl
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import grpc.aio
import orjson
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from llm_policy.errors import find_code
from llmstack.client.ensemble_client import Inputs
from llmstack.client.stream_client import STREAM_MODEL

ANSWERED, BROKEN, SENT = "answered", "no answer", "sent"
TOO_MANY = "too_many_requests"
"""What the gateway says to a client beyond its limits."""
UNARY_MODEL = "ensemble"
REQUESTS, STREAMS, GUIDES, VANISHED, PROCESSOR = "requests", "streams", "guides", "vanished", "processor"

_TEXT = "Claim: two and two are four."
_TOKENS, _STREAM_TOKENS = 16, 2_000
_RECEIVE_BYTES = 4_096  # of a reader that reads nothing
_UNREAD_REQUESTS = 8  # on one connection, one after the other
_HELD_S = 2.0  # a connection of a slow stream
_VANISH_S = 0.05  # after its request was sent
_PAUSE_S = 0.1  # after a connection failed
_STOP_S = 30.0
_TOO_MANY_CALLS = "gateway: too many requests"  # over gRPC
_NICENESS, _SESSION_NICENESS = 19, Path("/proc/self/autogroup")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class FloodPlan(NamedTuple):
    """Where to, as whom, and what: the kinds of requests, `num_connections` of each. `headers` hold the key.

    Requests go over TLS if `root_certificates` names a PEM file of certificates to trust. At most `requests_per_s` are
    sent, all kinds together. If it `gives_way`, the process takes only the processor time that others leave.
    """

    host: str
    http_port: int
    grpc_url: str
    headers: Mapping[str, str]
    kinds: list[str]
    num_connections: int
    root_certificates: str | None = None
    requests_per_s: float | None = None
    gives_way: bool = False


class FloodProcess:
    """The flooding process, while the block runs. `counts` has its requests by kind and answer afterwards.

    An answer is `answered`, an error's code, `too_many_requests` if the gateway refused it, `no answer` if the
    connection ended, or `sent`: a client that does not wait counts each request so, and over gRPC its answer as well if
    that came first.
    """

    def __init__(self, plan: FloodPlan) -> None:
        self._plan = plan
        self.counts: dict[str, dict[str, int]] = {}

    def __enter__(self) -> FloodProcess:
        command = [sys.executable, "-m", "llmstack.bench.flood_clients"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=self._plan.gives_way
        )
        self._input, self._output = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._input.write(orjson.dumps(self._plan._asdict()) + b"\n")
        self._input.flush()
        self._output.readline()  # it floods from now on
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            output, _ = self._process.communicate(timeout=_STOP_S)  # closes its input
            self.counts = orjson.loads(output) if output else {}
        finally:
            self._process.kill()

    @property
    def pid(self) -> int:
        """The flooding process."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Its processor time so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


class _Clients:
    """All clients of one process, on one asyncio loop."""

    def __init__(self, plan: FloodPlan) -> None:
        self._plan = plan
        self._counts: dict[str, Counter[str]] = {kind: Counter() for kind in plan.kinds}
        self._metadata = [(name.lower(), value) for name, value in plan.headers.items()]
        self._guide_numbers = itertools.count()
        self._guide_prefix = f"field_{uuid.uuid4().hex[:8]}"
        trusted = plan.root_certificates
        self._next_s = 0.0
        self._tls = ssl.create_default_context(cafile=trusted) if trusted else None
        self._grpc_tls = grpc.ssl_channel_credentials(Path(trusted).read_bytes()) if trusted else None

    async def run(self, until: Awaitable[object]) -> dict[str, dict[str, int]]:
        """Flood until `until` is done; the requests by kind and answer."""
        clients: dict[str, Callable[[], Awaitable[None]]] = {
            REQUESTS: lambda: self._send_and_read(REQUESTS, {"text_input": _TEXT, "max_tokens": _TOKENS}),
            GUIDES: lambda: self._send_and_read(GUIDES, {"text_input": _TEXT, "max_tokens": _TOKENS}),
            PROCESSOR: self._compute,
        }
        pairs = {STREAMS: (self._stream_http, self._stream_grpc), VANISHED: (self._vanish_http, self._vanish_grpc)}
        work = []
        for kind in self._plan.kinds:
            for number in range(1 if kind == PROCESSOR else self._plan.num_connections):
                client = pairs[kind][number % 2] if kind in pairs else clients[kind]
                work.append(asyncio.create_task(self._repeat(kind, client)))
        await until
        for task in work:
            task.cancel()
        await asyncio.wait(work)
        return {kind: dict(counts) for kind, counts in self._counts.items()}

    async def _repeat(self, kind: str, client: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await client()
            except (OSError, asyncio.IncompleteReadError, grpc.aio.AioRpcError):  # noqa: PERF203 - it is rare
                self._counts[kind][BROKEN] += 1
                await asyncio.sleep(_PAUSE_S)

    async def _pace(self) -> None:
        """Wait until the next request may be sent."""
        if self._plan.requests_per_s is None:
            return
        now_s = asyncio.get_running_loop().time()
        begin_s = max(now_s, self._next_s)
        self._next_s = begin_s + 1 / self._plan.requests_per_s
        await asyncio.sleep(begin_s - now_s)

    async def _send_and_read(self, kind: str, inputs: Inputs) -> None:
        """Requests on one connection, each after the answer to the one before."""
        reader, writer = await asyncio.open_connection(self._plan.host, self._plan.http_port, ssl=self._tls)
        with contextlib.closing(writer):
            while True:
                await self._pace()
                writer.write(self._infer({**inputs, **self._new_guide()} if kind == GUIDES else inputs))
                status, body = await _read_response(reader)
                self._counts[kind][ANSWERED if status == 200 else _code_of(body)] += 1

    async def _stream_http(self) -> None:
        """Streams on one connection whose client reads nothing, and goes away after a while."""
        inputs = {"text_input": _TEXT, "max_tokens": _STREAM_TOKENS, **self._plan.headers}
        message = self._post(f"/v2/models/{STREAM_MODEL}/generate_stream", inputs, {})
        async with self._unread_socket() as connection:
            for _ in range(_UNREAD_REQUESTS):
                await self._pace()
                connection.sendall(message)
                self._counts[STREAMS][SENT] += 1
            await asyncio.sleep(_HELD_S)

    async def _stream_grpc(self) -> None:
        """The same over gRPC: many requests on one stream."""
        async with self._channel() as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(metadata=self._metadata)
            for _ in range(_UNREAD_REQUESTS):
                await self._pace()
                await call.write(_grpc_request(STREAM_MODEL, _STREAM_TOKENS))
                self._counts[STREAMS][SENT] += 1
            await asyncio.sleep(_HELD_S)
            call.cancel()

    async def _vanish_http(self) -> None:
        """One request whose client closes the connection instead of reading."""
        async with self._unread_socket() as connection:
            message = self._infer({"text_input": _TEXT, "max_tokens": _TOKENS})
            await self._pace()
            connection.sendall(message)
            self._counts[VANISHED][SENT] += 1
            await asyncio.sleep(_VANISH_S)

    async def _vanish_grpc(self) -> None:
        """Calls that their client cancels."""
        async with self._channel() as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            while True:
                await self._pace()
                call = infer(_grpc_request(UNARY_MODEL, _TOKENS), metadata=self._metadata)
                self._counts[VANISHED][SENT] += 1
                await asyncio.sleep(_VANISH_S)
                if call.done():
                    self._counts[VANISHED][_grpc_answer(await call.code(), await call.details())] += 1
                call.cancel()

    async def _compute(self) -> None:
        """Use one core without sending anything: what a flooder's own processor time does to the others."""
        sum(range(100_000))
        await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def _unread_socket(self) -> AsyncIterator[socket.socket]:
        """A connection that does not block: its few requests fit into the socket's buffer."""
        connection = socket.socket()
        with contextlib.closing(connection):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (self._plan.host, self._plan.http_port))
            if self._tls is None:
                yield connection
                return
            with self._tls.wrap_socket(
                connection, server_hostname=self._plan.host, do_handshake_on_connect=False
            ) as secure:
                await _shake_hands(secure)
                yield secure

    def _channel(self) -> grpc.aio.Channel:
        if self._grpc_tls is None:
            return grpc.aio.insecure_channel(self._plan.grpc_url, options=_CHANNEL)
        return grpc.aio.secure_channel(self._plan.grpc_url, self._grpc_tls, options=_CHANNEL)

    def _new_guide(self) -> Inputs:
        name = f"{self._guide_prefix}_{next(self._guide_numbers)}"
        schema = {
            "type": "object",
            "properties": {name: {"type": "string", "maxLength": 20}, "amount": {"type": "integer"}},
            "required": [name],
            "additionalProperties": False,
        }
        return {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": orjson.dumps(schema).decode()}

    def _infer(self, inputs: Inputs) -> bytes:
        tensors = [
            {
                "name": name,
                "shape": [1, 1],
                "datatype": "INT32" if isinstance(value, int) else "BYTES",
                "data": [value],
            }
            for name, value in inputs.items()
        ]
        return self._post(f"/v2/models/{UNARY_MODEL}/infer", {"inputs": tensors}, self._plan.headers)

    def _post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
        content = orjson.dumps(body)
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self._plan.host}",
            f"Content-Length: {len(content)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


_CHANNEL = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


def _grpc_request(model: str, num_tokens: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    text.contents.bytes_contents.append(_TEXT.encode())
    limit = request.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1])
    limit.contents.int_contents.append(num_tokens)
    return request


def _grpc_answer(status: grpc.StatusCode, details: str | None) -> str:
    """What the client of a call saw that ended before it was cancelled."""
    if status == grpc.StatusCode.OK:
        return ANSWERED
    code = find_code(details or "")
    return code.value if code else TOO_MANY if _TOO_MANY_CALLS in (details or "") else BROKEN


async def _shake_hands(connection: ssl.SSLSocket) -> None:
    """The TLS handshake of a connection that does not block."""
    loop = asyncio.get_running_loop()
    while not _is_handshake_done(connection):
        is_readable = asyncio.Event()
        loop.add_reader(connection, is_readable.set)
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(connection)


def _is_handshake_done(connection: ssl.SSLSocket) -> bool:
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise OSError(str(error)) from error
    length = _LENGTH.search(head)
    return int(head.split(b" ", 2)[1]), await reader.readexactly(int(length[1]) if length else 0)


def _code_of(body: bytes) -> str:
    """The declared code of an error; its text if it has none."""
    try:
        text = str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    code = find_code(text)
    return code.value if code else TOO_MANY if text.startswith(f"{TOO_MANY}: ") else f"undeclared: {text:.200}"


def _give_way() -> None:
    """Take the lowest priority, before there are threads."""
    os.nice(_NICENESS)
    # Linux may divide the processor among sessions first; then a niceness counts within its session only.
    with contextlib.suppress(OSError):
        _SESSION_NICENESS.write_text(str(_NICENESS))


async def _main() -> None:
    plan = FloodPlan(**orjson.loads(sys.stdin.buffer.readline()))
    if plan.gives_way:
        _give_way()
    clients = _Clients(plan)
    sys.stdout.write("\n")
    sys.stdout.flush()
    counts = await clients.run(asyncio.to_thread(sys.stdin.buffer.readline))
    sys.stdout.buffer.write(orjson.dumps(counts))


if __name__ == "__main__":
    asyncio.run(_main())
