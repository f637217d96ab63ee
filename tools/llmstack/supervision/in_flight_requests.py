"""Clients' requests that may be in flight, according to the ledger.

An open row is a request that waits for its answer, or one that its client cancelled, which Triton does not report. Both
occupy the engine until their tokens are made; in an engine that hangs Triton counts them for ever. So a row counts as
in flight for as long as its tokens may take at the speed of the recent answers. That time begins at its admission or,
if later, at the last answer to any client: until then the row may have waited behind other requests.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.release.manifest import Manifest

_MARGIN_NS, _MARGIN_FACTOR = 10_000_000_000, 4
_RECENT_ROWS = 1_000
_ANSWERS = (
    "SELECT sum(closed_ns - admitted_ns), sum(num_completion_tokens), max(CASE WHEN canary = 0 THEN closed_ns END) "
    "FROM (SELECT * FROM request ORDER BY id DESC LIMIT ?) WHERE state = 'settled' AND boot_id = ?"
)
_OPEN = (
    "SELECT admitted_ns, projected_nano_usd - actual_nano_usd FROM request "
    "WHERE state = 'admitted' AND boot_id = ? AND row_number = 0 AND canary = 0"
)


class InFlightRequests:
    """The clients' open rows of one server start, in the ledger of `state_dir`."""

    def __init__(self, state_dir: Path, manifest: Manifest, boot_id: str) -> None:
        self._path, self._boot_id = state_dir / FILE_NAME, boot_id
        self._price = manifest.prices.per_token.output_nano_usd
        self._max_tokens = manifest.thresholds.max_tokens

    def has_any(self, now_ns: int) -> bool:
        """Whether a request may be in flight; True when the ledger can't be read."""
        try:
            with closing(open_read_only(self._path)) as connection:
                return self._has_any(connection, now_ns)
        except sqlite3.Error:
            return True

    def _has_any(self, connection: sqlite3.Connection, now_ns: int) -> bool:
        rows = connection.execute(_OPEN, (self._boot_id,)).fetchall()
        if not rows:
            return False
        duration_ns, num_tokens, last_answer_ns = connection.execute(_ANSWERS, (_RECENT_ROWS, self._boot_id)).fetchone()
        if not num_tokens:
            return True
        ns_per_token = duration_ns / num_tokens
        return any(
            now_ns - max(admitted_ns, last_answer_ns or 0) <= self._max_duration_ns(completion_nano_usd, ns_per_token)
            for admitted_ns, completion_nano_usd in rows
        )

    def _max_duration_ns(self, completion_nano_usd: int, ns_per_token: float) -> float:
        """How long a request may take. Its price tells its token limit; with free tokens it is the release's limit."""
        max_tokens = completion_nano_usd // self._price if self._price else self._max_tokens
        return _MARGIN_NS + _MARGIN_FACTOR * max_tokens * ns_per_token
