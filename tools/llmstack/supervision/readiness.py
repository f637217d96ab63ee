"""Whether the service is ready, and why not: what every part of the parent knows, in one place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any

import orjson

from llm_policy.release.release import Release
from llmstack.events.backlog import Backlog
from llmstack.supervision.ledger_access import WINDOW_S, WindowFigures
from llmstack.supervision.page_server import Page

# The canary of a busy server may come back without a proof for a while; then nobody knows any more.
MAX_PROOF_AGE_S = 60.0
# A thread of the parent that did not turn for this long hangs.
MAX_PULSE_AGE_S = 60.0
SERVER, STATE_DIRECTORY, LEDGER, DELIVERY = "server", "state directory", "ledger", "delivery"


@dataclass(frozen=True)
class CanaryResult:
    """What became of one canary request; `at_s` is when it ended, on the monotonic clock."""

    is_ok: bool
    latency_ms: float
    error: str = ""
    at_s: float = field(default_factory=time.monotonic)


class Readiness:
    """The state behind `/readyz` and `/livez`. Any thread may tell it something; every answer is consistent."""

    def __init__(self, release: Release, engine: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._facts = _facts(release, engine)
        self._now_s = now_s
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {SERVER: "the server starts"}
        self._canary: CanaryResult | None = None
        self._proven_at_s: float | None = None
        self._figures = WindowFigures(None, {})
        self._backlogs: list[Backlog] = []
        self._num_restarts = 0
        self._pulses: dict[str, float] = {}
        self._was_ready = False
        self._since = time.time()

    def set_release(self, release: Release, engine: str) -> None:
        """From now on it is this release that is served; what proved the one before proves nothing any more."""
        with self._lock:
            self._facts = _facts(release, engine)
            self._canary = self._proven_at_s = None
            self._note_change()

    def set_problem(self, part: str, reason: str) -> None:
        """`part` keeps the service from being ready; an empty reason takes that back."""
        with self._lock:
            if reason:
                self._problems[part] = reason
            else:
                self._problems.pop(part, None)
            self._note_change()

    def set_canary(self, result: CanaryResult, *, is_proof: bool) -> None:
        """The last canary, and whether it or the calls of others prove the server."""
        with self._lock:
            self._canary = result
            if is_proof:
                self._proven_at_s = result.at_s
            self._note_change()

    def set_figures(self, figures: WindowFigures, backlogs: Sequence[Backlog]) -> None:
        """What the ledger says, and what waits for the webhooks that are configured."""
        with self._lock:
            self._figures, self._backlogs = figures, [backlog for backlog in backlogs if backlog.is_configured]

    def count_restart(self) -> None:
        """The server was started again."""
        with self._lock:
            self._num_restarts += 1

    def pulse(self, thread: str) -> None:
        """A thread turned; from its first pulse on it must go on to."""
        with self._lock:
            self._pulses[thread] = self._now_s()

    @property
    def is_ready(self) -> bool:
        """Whether there is no reason against it."""
        with self._lock:
            return self._note_change()

    @property
    def backlogs(self) -> list[Backlog]:
        """What waits for each webhook."""
        with self._lock:
            return self._backlogs

    def document(self) -> dict[str, Any]:
        """All that `/readyz` says."""
        with self._lock:
            is_ready, canary = self._note_change(), self._canary
            return {
                "ready": is_ready,
                "reasons": self._reasons(),
                "since": datetime.fromtimestamp(self._since, timezone.utc).isoformat(timespec="milliseconds"),
                **self._facts,
                "canary": _canary_document(canary, self._now_s()),
                "window_s": WINDOW_S,
                "queue_delay_p95_us": self._figures.queue_delay_p95_us,
                "breaches": dict(self._figures.num_breaches),
                "delivery_backlog": {backlog.endpoint: backlog.num_pending for backlog in self._backlogs},
                "delivery_failed": {backlog.endpoint: backlog.num_failed for backlog in self._backlogs},
                "delivery_disabled": {b.endpoint: b.disabled_reason for b in self._backlogs if b.disabled_reason},
                "restarts": self._num_restarts,
            }

    def readyz(self) -> Page:
        """200 or 503, with the document."""
        document = self.document()
        status = HTTPStatus.OK if document["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), status)

    def livez(self) -> Page:
        """200 while the threads of the parent turn; a server that is being restarted is no reason to kill us."""
        with self._lock:
            hanging = self._hanging()
        body = orjson.dumps({"alive": not hanging, "reasons": hanging}, option=orjson.OPT_APPEND_NEWLINE)
        return Page(body, HTTPStatus.SERVICE_UNAVAILABLE if hanging else HTTPStatus.OK)

    def _reasons(self) -> list[str]:
        reasons = [f"{part}: {reason}" for part, reason in self._problems.items()]
        if SERVER not in self._problems and (unproven := self._unproven()):
            reasons.append(unproven)
        return reasons + self._hanging()

    def _unproven(self) -> str:
        age_s = self._now_s() - self._proven_at_s if self._proven_at_s is not None else None
        if age_s is not None and age_s <= MAX_PROOF_AGE_S:
            return ""
        error = self._canary.error if self._canary else ""
        return f"canary: no proof for {age_s:.0f} s: {error}" if age_s is not None else "canary: no proof yet"

    def _hanging(self) -> list[str]:
        now = self._now_s()
        return [
            f"{thread}: no sign of life for {now - at:.0f} s"
            for thread, at in self._pulses.items()
            if now - at > MAX_PULSE_AGE_S
        ]

    def _note_change(self) -> bool:
        """Whether it is ready now; remembers since when."""
        is_ready = not self._reasons()
        if is_ready != self._was_ready:
            self._was_ready, self._since = is_ready, time.time()
        return is_ready


def _facts(release: Release, engine: str) -> dict[str, str]:
    manifest = release.manifest
    return {
        "release": str(release.directory),
        "engine": engine,
        "model": manifest.engine.model,
        "engine_hash": manifest.engine.hash,
        "quantisation": manifest.engine.quantisation,
        "manifest_hash": release.manifest_hash,
        "tokenizer_info_hash": manifest.tokenizer.info_hash,
    }


def _canary_document(canary: CanaryResult | None, now_s: float) -> dict[str, Any] | None:
    if canary is None:
        return None
    return {
        "ok": canary.is_ok,
        "age_s": round(now_s - canary.at_s, 3),
        "latency_ms": round(canary.latency_ms, 3),
        "error": canary.error or None,
    }
