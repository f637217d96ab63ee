"""A flood of requests whose sender can't name the engine: how fast it comes, and how much the ledger grows in a day.

The ledger stores a sample of each minute and counts the others by minute, so its growth follows from the number of rows
of a minute and the bytes of a row. The bytes are measured on a copy of the flooded ledger, in which the longest stored
row and a count are repeated. The growth of the file itself is reported too; in a short run most of it is the rounding
to whole pages.
"""

from __future__ import annotations

import http.client
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson

from llm_policy.errors import find_code
from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.ledger.rejection_count import MINUTES_PER_DAY
from llm_policy.rules.headers import ENGINE_HASH, MAX_HEADER_CHARS, QUANTISATION, REQUEST_ID, TENANT
from llmstack.ledger.verification import verify

_PATH = "/v2/models/ensemble/infer"
_TIMEOUT_S = 60.0
_REPEATED_ROWS = 20_000
_REPEAT_REQUESTS = """
WITH RECURSIVE counted (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < :num)
INSERT INTO request (request_id, tenant, task, schema_id, engine_hash, boot_id, row_number, canary, num_prompt_tokens,
    projected_nano_usd, actual_nano_usd, state, code, admitted_ns, closed_ns)
SELECT request_id, tenant, task, schema_id, engine_hash, boot_id, row_number, canary, num_prompt_tokens,
    projected_nano_usd, actual_nano_usd, state, code, admitted_ns + number, closed_ns + number
FROM counted, (
    SELECT * FROM request WHERE state = 'refused' AND canary = 0
    ORDER BY length(request_id) + length(tenant) DESC LIMIT 1
)
"""
_REPEAT_COUNTS = """
WITH RECURSIVE counted (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < :num)
INSERT INTO rejection_count SELECT minute + number, code, task, engine_hash, num_samples, num_rows
FROM counted, (SELECT * FROM rejection_count ORDER BY minute DESC LIMIT 1)
"""

Headers = Mapping[str, str]


class FloodError(RuntimeError):
    """A request was not rejected by the policy, or the ledger is not consistent afterwards."""


class FloodMeasurement(NamedTuple):
    """What a flood did to the ledger. `num_minutes` is the number of minutes in which requests were rejected."""

    seconds: float
    num_requests: int
    num_minutes: int
    num_stored_rows: int
    num_counts: int  # rows of `rejection_count`
    stored_row_bytes: float
    count_bytes: float
    grown_bytes: int  # of the database, in whole pages

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.num_requests / self.seconds

    @property
    def bytes_per_day(self) -> float:
        """The growth of a day at this rate or any higher one."""
        grown = self.num_stored_rows * self.stored_row_bytes + self.num_counts * self.count_bytes
        return grown / self.num_minutes * MINUTES_PER_DAY

    @property
    def unsampled_bytes_per_day(self) -> float:
        """The growth of a day if each rejection was stored."""
        return self.per_second * 86_400 * self.stored_row_bytes


def flood_headers(engine_hash: str, quantisation: str, *, is_mixed: bool) -> list[Headers]:
    """The headers to send in turn: none, or also the longest ones and each other way not to be known."""
    known = {ENGINE_HASH: engine_hash, QUANTISATION: quantisation}
    if not is_mixed:
        return [{}]
    return [
        {},
        {TENANT: "x" * MAX_HEADER_CHARS, REQUEST_ID: "x" * MAX_HEADER_CHARS},
        {**known, ENGINE_HASH: "sha256:" + "0" * 64},
        {**known, QUANTISATION: "int4"},
        {**known, TENANT: "x" * (MAX_HEADER_CHARS + 1)},
        known,  # the input below is invalid
    ]


def measure_flood(
    http_url: str,
    state_dir: Path,
    headers: list[Headers],
    seconds: float,
    num_connections: int,
    on_second: Callable[[int], None] = lambda number: None,
) -> FloodMeasurement:
    """Send requests for `seconds` over `num_connections` connections to a server with nothing else to do.

    `on_second` receives the number of requests so far.

    Raises:
        FloodError: a request was not rejected, or the ledger is not consistent.
        OSError: the server can't be reached.
    """
    path = state_dir / FILE_NAME
    with closing(open_read_only(path)) as connection:
        used_before = _used_bytes(connection)
        rows_before, counts_before = _num_rows(connection)
    sent = [0] * num_connections
    began, began_minute = time.monotonic(), int(time.time()) // 60
    with ThreadPoolExecutor(num_connections) as clients:
        running = [
            clients.submit(_send, http_url, headers, began + seconds, sent, index) for index in range(num_connections)
        ]
        while not all(future.done() for future in running):
            time.sleep(min(1.0, seconds))
            on_second(sum(sent))
        for future in running:
            future.result()
    elapsed_s, num_minutes = time.monotonic() - began, int(time.time()) // 60 - began_minute + 1
    with closing(open_read_only(path)) as connection:
        rows, counts = _num_rows(connection)
        row_bytes, count_bytes = _measure_bytes(connection)
        if discrepancies := verify(connection, time.time_ns(), max_open_s=600).discrepancies:
            raise FloodError(f"the ledger is not consistent: {discrepancies[0]}")
        grown = _used_bytes(connection) - used_before
    return FloodMeasurement(
        elapsed_s,
        sum(sent),
        num_minutes,
        rows - rows_before,
        counts - counts_before,
        row_bytes,
        count_bytes,
        grown,
    )


def _send(http_url: str, headers: list[Headers], until_s: float, sent: list[int], index: int) -> None:
    body = orjson.dumps(
        {
            "inputs": [
                {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["Order 4711"]},
                {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [0]},
            ]
        }
    )
    parts = urlsplit(http_url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
        while time.monotonic() < until_s:
            connection.request("POST", _PATH, body, {**headers[sent[index] % len(headers)]})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 400 or find_code(orjson.loads(answer)["error"]) is None:
                raise FloodError(f"status {response.status}: {answer.decode(errors='replace'):.200}")
            sent[index] += 1


def _num_rows(connection: sqlite3.Connection) -> tuple[int, int]:
    (rows,) = connection.execute("SELECT count(*) FROM request WHERE canary = 0").fetchone()
    (counts,) = connection.execute("SELECT count(*) FROM rejection_count").fetchone()
    return rows, counts


def _measure_bytes(connection: sqlite3.Connection) -> tuple[float, float]:
    """The bytes of one more stored row and of one more count, with their indexes."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        connection.backup(copy)
        sizes = [_used_bytes(copy)]
        for statement in (_REPEAT_REQUESTS, _REPEAT_COUNTS):
            copy.execute(statement, {"num": _REPEATED_ROWS})
            sizes.append(_used_bytes(copy))
    before, with_rows, with_counts = sizes
    return (with_rows - before) / _REPEATED_ROWS, (with_counts - with_rows) / _REPEATED_ROWS


def _used_bytes(connection: sqlite3.Connection) -> int:
    num_pages, num_free, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((num_pages - num_free) * page_bytes)
