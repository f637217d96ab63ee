"""A request as Triton hands it over, before any rule looks at it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_policy.errors import Code, PolicyError, Unavailable
from llm_policy.ledger.row_record import RowRecord
from llm_policy.rules.headers import HeaderCheck
from llm_policy.rules.row_input import Array
from llm_policy.triton.tenant_queues import MAX_WAITING

_SOON_S = 0.05  # asking Triton takes longer than most requests wait
_TOO_MANY = f"{MAX_WAITING} requests wait for admission, limit {MAX_WAITING}; this tenant has most of them; try again"


class Arrival(NamedTuple):
    """What the request holds, read at once: Triton's shared memory is not kept while it waits.

    `sender` is Triton's, `outputs` are the names that the client wants, `timeout_us` is 0 without a limit of its own.
    """

    sender: Any
    outputs: frozenset[str]
    timeout_us: int
    request_id: str = ""
    inputs: Mapping[str, Array] = MappingProxyType({})
    check: HeaderCheck = HeaderCheck(RowRecord())
    read_s: float = 0.0
    """When it was read, on the monotonic clock."""
    fault: BaseException | None = None
    """Why the request can't be read."""
    refusal: PolicyError | None = None
    """Why it is refused before any rule looks at its inputs."""

    def is_abandoned(self) -> bool:
        """Whether the client cancelled the request while it waited. Triton itself drops only what waits there."""
        return time.monotonic() - self.read_s > _SOON_S and bool(self.sender.is_cancelled())

    def displaced(self) -> Arrival:
        """The same, refused because too many requests wait."""
        return self._replace(refusal=Unavailable(Code.OVERLOADED, _TOO_MANY), inputs={})
