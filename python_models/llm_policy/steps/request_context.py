"""What is known about a request so far, for its ledger rows and log lines, whatever its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_policy.rules.headers import Headers, is_loggable
from llm_policy.rules.row_input import MAX_BATCH_ROWS, Array


@dataclass
class RowContext:
    """One row. A field that is empty or 0 was not reached before the request was rejected."""

    task: str = ""
    schema_id: str = ""
    num_prompt_tokens: int = 0
    prompt_nano_usd: int = 0
    projected_nano_usd: int = 0
    ledger_id: int | None = None  # None until the row is in the ledger


@dataclass
class RequestContext:
    """One request, filled in step by step."""

    request_id: str = ""
    tenant: str = ""
    trace_id: str = ""
    is_canary: bool = False
    rows: list[RowContext] = field(default_factory=lambda: [RowContext()])

    @classmethod
    def from_protocol_id(cls, request_id: str) -> RequestContext:
        """A new context with the id that the protocol carried; an id that must not be logged is dropped."""
        return cls(request_id if is_loggable(request_id) else "")

    def set_num_rows(self, inputs: Mapping[str, Array]) -> None:
        """Count the rows without unpacking them: a request with invalid headers is recorded by row too."""
        array = next(iter(inputs.values()), None)
        num_rows = array.shape[0] if array is not None and array.ndim else 1
        self.rows = [RowContext() for _ in range(num_rows if 1 <= num_rows <= MAX_BATCH_ROWS else 1)]

    def set_headers(self, headers: Headers) -> None:
        """Take over the headers; `X-Request-Id` overrides the protocol's id."""
        self.tenant = headers.tenant
        self.request_id = headers.request_id or self.request_id
        self.trace_id = headers.trace_id
        self.is_canary = headers.is_canary
