"""The request log: one JSON line per row of a request in the server's log, never with prompt text.

Lines are collected and written once per batch, directly to the stub's standard output, which is the server's log.
Triton's own logger takes a round trip between stub and server for each line, which costs a quarter of the throughput.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import orjson
import structlog

from llm_policy.api_key import without_keys
from llm_policy.errors import PolicyError
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tables import CANCELLED, REFUSED, SETTLED

_STDOUT = 1
_EVENT = "request"
_MAX_REASON_CHARS = 300


class RequestLog:
    """Collects the lines of a batch; `flush` writes them. Thread-safe."""

    def __init__(self) -> None:
        self._lines = _LineBuffer()
        self._logger = structlog.wrap_logger(
            self._lines,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                _render,
            ],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        ).bind()

    def add(self, record: RowRecord, error: PolicyError | None = None) -> None:
        """Add the line of a row that was answered, or rejected if it has a code; `error` is what its client is told."""
        reason = {"reason": without_keys(error.detail)[:_MAX_REASON_CHARS]} if error is not None and record.code else {}
        self._logger.info(_EVENT, **row_fields(record), **reason)

    def flush(self) -> None:
        """Write the collected lines."""
        if lines := self._lines.take():
            _write(b"".join(lines))


def row_fields(record: RowRecord) -> dict[str, Any]:
    """The fields of a row's line. A rejected row has no usage, also if the engine answered it.

    A row that ended early, at its time limit or because its client went away, has both a code and usage.
    """
    if record.code and not record.is_cut:
        return {
            **_request_fields(record),
            "num_completion_tokens": 0,
            "cost_nano_usd": 0,
            "queue_delay_us": None,
            "flags": [],
            "outcome": REFUSED,
            "code": record.code,
            "ledger_id": record.ledger_id,
        }
    return {
        **_request_fields(record),
        "num_completion_tokens": record.num_completion_tokens,
        "cost_nano_usd": record.actual_nano_usd,
        "queue_delay_us": record.queue_delay_us,
        "flags": record.flags,
        "outcome": CANCELLED if record.is_cut else SETTLED,
        "code": record.code,
        "ledger_id": record.ledger_id,
        "finish_reason": record.finish_reason,
        "schema_valid": record.schema_valid,
    }


def _request_fields(record: RowRecord) -> dict[str, Any]:
    return {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "tenant": record.tenant,
        "task": record.task,
        "schema_id": record.schema_id,
        "canary": record.is_canary,
        "num_prompt_tokens": record.num_prompt_tokens,
    }


def write_lines(lines: list[dict[str, Any]]) -> None:
    """Write `lines` as JSON, in one write."""
    _write(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))


class _LineBuffer:
    """The final logger in structlog's chain: it keeps rendered lines until they are taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[bytes] = []

    def info(self, line: bytes) -> None:
        with self._lock:
            self._lines.append(line)

    def take(self) -> list[bytes]:
        with self._lock:
            lines, self._lines = self._lines, []
            return lines


def _render(logger: Any, method: str, event: Any) -> bytes:
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


def _write(text: bytes) -> None:
    """Ignore a full disk: a lost log line must not fail its request."""
    with contextlib.suppress(OSError):
        os.write(_STDOUT, text)
