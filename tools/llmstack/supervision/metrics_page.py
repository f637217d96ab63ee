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

    `triton_url` and the parts of `policy` are asked at each scrape; each part returns Prometheus text of some `llm_*`
    families. Why one could not be had stands in a comment.
    """

    def __init__(
        self,
        triton_url: Callable[[], str],
        policy: Mapping[str, Callable[[], bytes]],
        is_ready: Callable[[], bool],
        backlogs: Callable[[], Sequence[Backlog]],
    ) -> None:
        self._triton_url, self._is_ready, self._backlogs = triton_url, is_ready, backlogs
        self._parts = {"triton": self._scrape_triton, **policy}
        self._client = httpx.Client(timeout=TRITON_TIMEOUT_S, trust_env=False)

    def make(self) -> Page:
        """The page as of now."""
        attempts = {name: _attempt(name, part) for name, part in self._parts.items()}
        texts = [text for text, _ in attempts.values()]
        parts = {name: is_up for name, (_, is_up) in attempts.items()}
        own = [
            *_gauge("llm_ready", "Whether /readyz says yes", {"": self._is_ready()}),
            *_gauge("llm_metrics_part_up", "Whether a part of this page could be had", _labelled("part", parts)),
        ]
        delivery = backlog.exposition(self._backlogs())
        return Page(b"".join([*texts, delivery, "".join(own).encode()]), content_type=CONTENT_TYPE)

    def _scrape_triton(self) -> bytes:
        return self._client.get(self._triton_url()).raise_for_status().content


def _attempt(name: str, part: Callable[[], bytes]) -> tuple[bytes, bool]:
    """What `part` returns, and whether it does: the other parts must come all the same."""
    try:
        text = part()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"# no {name} metrics: {reason}\n".encode(), False
    return text if text.endswith(b"\n") or not text else text + b"\n", True


def _labelled(label: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': value for name, value in values.items()}


def _gauge(name: str, description: str, values: Mapping[str, float]) -> list[str]:
    return [
        f"# HELP {name} {description}\n# TYPE {name} gauge\n",
        *(f"{name}{label} {int(value)}\n" for label, value in values.items()),
    ]
