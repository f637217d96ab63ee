"""What is known of a request so far: for its rows in the ledger and its lines in the log, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_policy.rules.headers import Headers, is_presentable
from llm_policy.rules.request import MAX_BATCH_ROWS, Array


@dataclass
class RowContext:
    """One row. Empty and 0 mean that the request was refused before."""

    task: str = ""
    schema_id: str = ""
    num_prompt_tokens: int = 0
    prompt_nano_usd: int = 0
    projected_nano_usd: int = 0
    ledger_id: int | None = None  # none until it is written down


@dataclass
class RequestContext:
    """One request, from the id that its protocol carried to whatever the steps found out."""

    request_id: str = ""
    tenant: str = ""
    trace_id: str = ""
    is_canary: bool = False
    rows: list[RowContext] = field(default_factory=lambda: [RowContext()])

    @classmethod
    def of(cls, request_id: str) -> RequestContext:
        """A request of which only its protocol's id is known; one that could not stand in a log counts as none."""
        return cls(request_id if is_presentable(request_id) else "")

    def expect_rows(self, inputs: Mapping[str, Array]) -> None:
        """Count the rows before they are unpacked: a request with a bad header has rows too."""
        array = next(iter(inputs.values()), None)
        num_rows = array.shape[0] if array is not None and array.ndim else 1
        self.rows = [RowContext() for _ in range(num_rows if 1 <= num_rows <= MAX_BATCH_ROWS else 1)]

    def take(self, headers: Headers) -> None:
        """What the header gate let through."""
        self.tenant = headers.tenant
        self.request_id = headers.request_id or self.request_id
        self.trace_id = headers.trace_id
        self.is_canary = headers.is_canary
