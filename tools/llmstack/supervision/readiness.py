"""The readiness of the service and the reasons against it, as the parts of the parent process report them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from engine_process.messages import Stats
from llm_policy.ledger.size_budget import LedgerSize
from llm_policy.release.release import Release
from llmstack.events.backlog import Backlog
from llmstack.supervision.ledger_maintenance import WINDOW_S, WindowStatistics
from llmstack.supervision.page_server import Page

# The canaries of a busy server may be inconclusive for a while. After this time the server's health is unknown.
MAX_HEALTH_AGE_S = 60.0
# A thread of the parent that has sent no pulse for this long hangs.
MAX_PULSE_AGE_S = 60.0
SERVER, ENGINE, STATE_DIRECTORY, LEDGER, DELIVERY = "server", "engine", "state directory", "ledger", "delivery"
OPENAI = "openai"


@dataclass(frozen=True)
class CanaryResult:
    """The outcome of one canary request, which ended at `at_s` on the monotonic clock."""

    is_ok: bool
    latency_ms: float
    error: str = ""
    at_s: float = field(default_factory=time.monotonic)


class EngineState(NamedTuple):
    """The engine process: `pid` is None while none runs, `stats` until it is loaded. `started_at` is Unix time."""

    kind: str
    pid: int | None
    started_at: float | None
    num_restarts: int
    stats: Stats | None


class OpenAIState(NamedTuple):
    """The process of the OpenAI API; `pid` is None while none runs."""

    pid: int | None
    port: int
    restarts: int


class Readiness:
    """The state behind `/readyz` and `/livez`. Thread-safe."""

    def __init__(
        self,
        release: Release,
        engine: str,
        now_s: Callable[[], float] = time.monotonic,
        unix_time_s: Callable[[], float] = time.time,
        *,
        requires_api_keys: bool = False,
    ) -> None:
        self._identity = _identity(release, engine)
        self._requires_api_keys = requires_api_keys
        self._now_s, self._unix_time_s = now_s, unix_time_s
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {SERVER: "the server starts"}
        self._canary: CanaryResult | None = None
        self._healthy_at_s: float | None = None
        self._window = WindowStatistics(None, {})
        self._backlogs: list[Backlog] = []
        self._ledger_size = LedgerSize()
        self._num_restarts = 0
        self._num_reloads: dict[str, int] = {}
        self._engine_process: EngineState | None = None
        self._openai: OpenAIState | None = None
        self._pulses: dict[str, float] = {}
        self._was_ready = False
        self._since = unix_time_s()

    def set_release(self, release: Release, engine: str) -> None:
        """Report this release from now on; the health checks of the one before no longer count."""
        with self._lock:
            self._identity = _identity(release, engine)
            self._canary = self._healthy_at_s = None
            self._evaluate()

    def set_problem(self, part: str, reason: str) -> None:
        """Report a problem of `part`, which makes the service unready; an empty reason clears it."""
        with self._lock:
            if reason:
                self._problems[part] = reason
            else:
                self._problems.pop(part, None)
            self._evaluate()

    def set_canary(self, result: CanaryResult, *, is_serving: bool) -> None:
        """Report the last canary, and whether the server served it or clients' requests."""
        with self._lock:
            self._canary = result
            if is_serving:
                self._healthy_at_s = result.at_s
            self._evaluate()

    def forget_health(self) -> None:
        """Health checks so far no longer count: the service is ready after the next one."""
        with self._lock:
            self._healthy_at_s = None
            self._evaluate()

    def set_engine_process(self, state: EngineState | None) -> None:
        """Report the engine process; None for an engine inside tritonserver."""
        with self._lock:
            self._engine_process = state

    def set_openai(self, state: OpenAIState) -> None:
        """Report the process of the OpenAI API."""
        with self._lock:
            self._openai = state

    def set_statistics(self, window: WindowStatistics, backlogs: Sequence[Backlog]) -> None:
        """Report the ledger's statistics and the backlogs; those of webhooks that are not configured are left out."""
        with self._lock:
            self._window, self._backlogs = window, [backlog for backlog in backlogs if backlog.is_configured]

    def set_ledger_size(self, size: LedgerSize) -> None:
        """Report the ledger's size. It never makes the service unready: a full disk does."""
        with self._lock:
            self._ledger_size = size

    def count_restart(self) -> None:
        """Count one restart of the server."""
        with self._lock:
            self._num_restarts += 1

    def count_reload(self, model: str) -> None:
        """Count one replacement of the stubs of `model` in a running server."""
        with self._lock:
            self._num_reloads[model] = self._num_reloads.get(model, 0) + 1

    def pulse(self, thread: str) -> None:
        """Report that `thread` is alive; after its first pulse it must send more."""
        with self._lock:
            self._pulses[thread] = self._now_s()

    @property
    def is_ready(self) -> bool:
        """Whether the service is ready."""
        with self._lock:
            return self._evaluate()

    @property
    def has_health_check(self) -> bool:
        """Whether a health check has succeeded that counts."""
        with self._lock:
            return self._healthy_at_s is not None

    @property
    def backlogs(self) -> list[Backlog]:
        """The backlog of each configured webhook."""
        with self._lock:
            return self._backlogs

    def document(self) -> dict[str, Any]:
        """The document of `/readyz`."""
        with self._lock:
            is_ready, canary = self._evaluate(), self._canary
            return {
                "ready": is_ready,
                "reasons": self._reasons(),
                "since": _date(self._since),
                **self._identity,
                "api_keys_required": self._requires_api_keys,
                "canary": _canary_document(canary, self._now_s()),
                "window_s": WINDOW_S,
                "queue_delay_p95_us": self._window.queue_delay_p95_us,
                "breaches": dict(self._window.num_breaches),
                "delivery_backlog": {backlog.endpoint: backlog.num_pending for backlog in self._backlogs},
                "delivery_failed": {backlog.endpoint: backlog.num_failed for backlog in self._backlogs},
                "delivery_disabled": {b.endpoint: b.disabled_reason for b in self._backlogs if b.disabled_reason},
                "ledger": self._ledger_size._asdict(),
                "restarts": self._num_restarts,
                "reloads": dict(self._num_reloads),
                "engine_process": _engine_document(self._engine_process),
                "openai": self._openai._asdict() if self._openai is not None else None,
            }

    def readyz(self) -> Page:
        """The page `/readyz`: the document, with status 200 or 503."""
        document = self.document()
        status = HTTPStatus.OK if document["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), status)

    def livez(self) -> Page:
        """The page `/livez`: 200 while the parent's threads send pulses, also while the server is being restarted."""
        with self._lock:
            hanging = self._hanging()
        body = orjson.dumps({"alive": not hanging, "reasons": hanging}, option=orjson.OPT_APPEND_NEWLINE)
        return Page(body, HTTPStatus.SERVICE_UNAVAILABLE if hanging else HTTPStatus.OK)

    def _reasons(self) -> list[str]:
        reasons = [f"{part}: {reason}" for part, reason in self._problems.items()]
        if not self._problems.keys() & {SERVER, ENGINE} and (reason := self._unknown_health()):
            reasons.append(reason)
        return reasons + self._hanging()

    def _unknown_health(self) -> str:
        age_s = self._now_s() - self._healthy_at_s if self._healthy_at_s is not None else None
        if age_s is not None and age_s <= MAX_HEALTH_AGE_S:
            return ""
        error = self._canary.error if self._canary else ""
        if age_s is None:
            return "canary: no successful health check yet"
        return f"canary: no successful health check for {age_s:.0f} s: {error}"

    def _hanging(self) -> list[str]:
        now = self._now_s()
        return [
            f"{thread}: no sign of life for {now - at:.0f} s"
            for thread, at in self._pulses.items()
            if now - at > MAX_PULSE_AGE_S
        ]

    def _evaluate(self) -> bool:
        """Whether the service is ready now; records when that last changed."""
        is_ready = not self._reasons()
        if is_ready != self._was_ready:
            self._was_ready, self._since = is_ready, self._unix_time_s()
        return is_ready


def _identity(release: Release, engine: str) -> dict[str, str]:
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


def _date(unix_time_s: float) -> str:
    return datetime.fromtimestamp(unix_time_s, timezone.utc).isoformat(timespec="milliseconds")


def _engine_document(state: EngineState | None) -> dict[str, Any] | None:
    if state is None:
        return None
    stats = state.stats
    return {
        "kind": state.kind,
        "pid": state.pid,
        "started_at": _date(state.started_at) if state.started_at is not None else None,
        "restarts": state.num_restarts,
        "running": stats.running if stats else None,
        "waiting": stats.waiting if stats else None,
        "last_step_age_s": round(stats.last_step_age_s, 3) if stats else None,
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
