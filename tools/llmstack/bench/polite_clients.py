"""A few clients of one tenant that send a request, read its answer, wait a moment, and note how long each took."""

from __future__ import annotations

import http.client
import itertools
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from llm_policy.errors import find_code
from llmstack.bench.flood_clients import UNARY_MODEL
from llmstack.client.ensemble_client import ServerUrls
from llmstack.client.stream_client import STREAM_MODEL

UNGUIDED, GUIDED, STREAM = "unguided", "guided", "stream"
"""An unguided request and one by a registered schema, both unary; an unguided stream."""
_KINDS_OF_CLIENT = (UNGUIDED, GUIDED, UNGUIDED, STREAM)
_TIMEOUT_S = 60.0
_TOKENS = 16
_EVENT = b"data: "


class Timed(NamedTuple):
    """One request: its kind, how long it took, and why it failed; empty if it did not."""

    kind: str
    seconds: float
    failure: str


class PoliteClients:
    """Four clients that send in turn while the block runs; `timed` has their requests.

    `headers` have the tenant's key; `schema_id` is a registered schema. Each client pauses for `pause_s` after each
    answer, and connects from its own of the `addresses` if they are given.
    """

    def __init__(
        self,
        server: ServerUrls,
        headers: Mapping[str, str],
        schema_id: str,
        pause_s: float,
        addresses: Sequence[str] = (),
    ) -> None:
        parts = urlsplit(server.http_url)
        self._address = (parts.hostname or "", parts.port)
        self._tls = ssl.create_default_context(cafile=server.root_certificates) if parts.scheme == "https" else None
        self._headers, self._schema_id, self._pause_s = headers, schema_id, pause_s
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=pair, daemon=True)
            for pair in itertools.zip_longest(_KINDS_OF_CLIENT, addresses[: len(_KINDS_OF_CLIENT)])
        ]
        self.timed: list[Timed] = []

    def __enter__(self) -> PoliteClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kind: str, address: str | None) -> None:
        connection = self._connection((address, 0) if address else None)
        with closing(connection):
            while not self._ends.wait(self._pause_s):
                began = time.perf_counter()
                try:
                    failure = self._stream(connection) if kind == STREAM else self._infer(connection, kind)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    failure = f"no answer: {type(error).__name__}"
                    connection.close()  # the next request opens it again
                self.timed.append(Timed(kind, time.perf_counter() - began, failure))

    def _connection(self, source: tuple[str, int] | None) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_S, source_address=source)
        return http.client.HTTPSConnection(*self._address, timeout=_TIMEOUT_S, source_address=source, context=self._tls)

    def _infer(self, connection: http.client.HTTPConnection, kind: str) -> str:
        inputs = {"text_input": "Order 4711", "max_tokens": _TOKENS}
        inputs |= {"schema_id": self._schema_id} if kind == GUIDED else {}
        tensors = [
            {"name": name, "shape": [1, 1], "datatype": "INT32" if name == "max_tokens" else "BYTES", "data": [value]}
            for name, value in inputs.items()
        ]
        body = orjson.dumps({"inputs": tensors})
        connection.request("POST", f"/v2/models/{UNARY_MODEL}/infer", body, {**self._headers})
        response = connection.getresponse()
        answer = response.read()
        return "" if response.status == http.client.OK else _failure(orjson.loads(answer))

    def _stream(self, connection: http.client.HTTPConnection) -> str:
        body = orjson.dumps({"text_input": "Order 4711", "max_tokens": _TOKENS, **self._headers})
        connection.request("POST", f"/v2/models/{STREAM_MODEL}/generate_stream", body)
        events = connection.getresponse().read().splitlines()
        last = orjson.loads(next(line.removeprefix(_EVENT) for line in reversed(events) if line))
        if "error" in last:
            return _failure(last)
        return "" if last.get("is_last") else "the stream has no end"


def _failure(answer: Mapping[str, Any]) -> str:
    code = find_code(str(answer["error"]))
    return f"{code.value if code else 'undeclared'}: {answer['error']:.200}"
