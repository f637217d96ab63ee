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

from llm_policy.errors import PolicyError
from llm_policy.steps.decision import Decision
from llm_policy.steps.postprocess import Answer
from llm_policy.steps.request_context import RequestContext

_STDOUT = 1
_EVENT = "request"
_NO_USAGE: dict[str, Any] = {
    "num_completion_tokens": 0,
    "cost_nano_usd": 0,
    "queue_delay_us": None,
    "flags": [],
}


class RequestLog:
    """Collects the lines of a batch; `flush` writes them. Thread-safe."""

    def __init__(self) -> None:
        self._lines = _LineBuffer()
        self._logger = structlog.wrap_logger(
            self._lines,
            processors=[structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"), _render],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        ).bind()

    def add_rejected(self, context: RequestContext, error: PolicyError) -> None:
        """Add one line per row of a request that preprocess rejected."""
        for line in rejected_lines(context, error):
            self._logger.info(_EVENT, **line)

    def add_withheld(self, decision: Decision, error: PolicyError) -> None:
        """Add the line of a row that the engine answered but whose client gets an error."""
        self._logger.info(_EVENT, **withheld_line(decision, error))

    def add_settled(self, answer: Answer) -> None:
        """Add the line of an answered row."""
        self._logger.info(_EVENT, **settled_line(answer))

    def flush(self) -> None:
        """Write the collected lines."""
        if lines := self._lines.take():
            _write(b"".join(lines))


def rejected_lines(context: RequestContext, error: PolicyError) -> list[dict[str, Any]]:
    """The fields of each row's line for a rejected request."""
    return [
        {
            **_request_fields(context, row.task, row.schema_id, row.num_prompt_tokens),
            **_NO_USAGE,
            "outcome": "refused",
            "code": error.code.value,
            "ledger_id": row.ledger_id,
        }
        for row in context.rows
    ]


def withheld_line(decision: Decision, error: PolicyError) -> dict[str, Any]:
    """The fields of the line of a row whose answer is withheld."""
    return {
        **_request_fields(decision, decision.task, decision.schema_id, decision.num_prompt_tokens),
        **_NO_USAGE,
        "outcome": "refused",
        "code": error.code.value,
        "ledger_id": decision.ledger_id,
    }


def settled_line(answer: Answer) -> dict[str, Any]:
    """The fields of the line of an answered row."""
    decision = answer.decision
    return {
        **_request_fields(decision, decision.task, decision.schema_id, decision.num_prompt_tokens),
        "num_completion_tokens": answer.num_output_tokens,
        "cost_nano_usd": answer.cost_nano_usd,
        "queue_delay_us": answer.queue_delay_us,
        "flags": answer.flags,
        "outcome": "settled",
        "code": "",
        "ledger_id": decision.ledger_id,
        "finish_reason": answer.finish_reason,
        "schema_valid": answer.schema_valid,
    }


def _request_fields(
    request: RequestContext | Decision, task: str, schema_id: str, num_prompt_tokens: int
) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "trace_id": request.trace_id,
        "tenant": request.tenant,
        "task": task,
        "schema_id": schema_id,
        "canary": request.is_canary,
        "num_prompt_tokens": num_prompt_tokens,
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
