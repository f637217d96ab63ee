"""The public metrics page: Triton's own metrics, the policy's, and what the parent knows, in one scrape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import httpx

from llmstack.events import backlog
from llmstack.events.backlog import Backlog
from llmstack.supervision.page_server import Page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TRITON_TIMEOUT_S = 2.0


class MetricsPage:
    """Joins the parts; one that can't be had is left out, and `llm_metrics_part_up` says so.

    `triton_url` and `policy` are asked at each scrape; `policy` returns Prometheus text of all `llm_*` families.
    """

    def __init__(
        self,
        triton_url: Callable[[], str],
        policy: Callable[[], bytes],
        is_ready: Callable[[], bool],
        backlogs: Callable[[], Sequence[Backlog]],
    ) -> None:
        self._triton_url, self._policy, self._is_ready, self._backlogs = triton_url, policy, is_ready, backlogs
        self._client = httpx.Client(timeout=TRITON_TIMEOUT_S, trust_env=False)

    def make(self) -> Page:
        """The page as of now."""
        triton = _attempt(self._scrape_triton)
        policy = _attempt(self._policy)
        parts = {"triton": triton is not None, "policy": policy is not None}
        own = [
            *_gauge("llm_ready", "Whether /readyz says yes", {"": self._is_ready()}),
            *_gauge("llm_metrics_part_up", "Whether a part of this page could be had", _labelled("part", parts)),
        ]
        texts = [part if part.endswith(b"\n") else part + b"\n" for part in (triton, policy) if part]
        delivery = backlog.exposition(self._backlogs())
        return Page(b"".join([*texts, delivery, "".join(own).encode()]), content_type=CONTENT_TYPE)

    def _scrape_triton(self) -> bytes:
        return self._client.get(self._triton_url()).raise_for_status().content


def _attempt(part: Callable[[], bytes]) -> bytes | None:
    """What `part` returns; None for any fault, because the other parts must come all the same."""
    try:
        return part()
    except Exception:
        return None


def _labelled(label: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': value for name, value in values.items()}


def _gauge(name: str, description: str, values: Mapping[str, float]) -> list[str]:
    return [
        f"# HELP {name} {description}\n# TYPE {name} gauge\n",
        *(f"{name}{label} {int(value)}\n" for label, value in values.items()),
    ]
