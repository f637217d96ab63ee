"""The public metrics page: Triton's own metrics, the policy's and the parent process's, in one scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import httpx
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmstack.events.backlog import Backlog, metric_families
from llmstack.supervision.page_server import Page

TRITON_TIMEOUT_S = 2.0


class MetricsPage:
    """Joins the parts of the page. A part that fails is left out, and `llm_metrics_part_up` is 0 for it.

    `triton_url` and the parts of `policy` are called at each scrape. A part returns Prometheus text of families that no
    other part has; a comment on the page gives the reason of one that failed. The texts are joined as bytes, because a
    prometheus_client registry can't hold Triton's text and loses every part when one collector fails.
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
        """The page with the current values."""
        attempts = {name: _attempt(name, part) for name, part in self._parts.items()}
        texts = [text for text, _ in attempts.values()]
        parts_up = {name: is_up for name, (_, is_up) in attempts.items()}
        own = generate_latest(_ServiceMetrics(self._is_ready(), parts_up, self._backlogs()))
        return Page(b"".join([*texts, own]), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _scrape_triton(self) -> bytes:
        return self._client.get(self._triton_url()).raise_for_status().content


class _ServiceMetrics(Collector):
    """The families of the parent process: readiness, the parts of the page and the configured webhooks' backlogs."""

    def __init__(self, is_ready: bool, parts_up: Mapping[str, bool], backlogs: Sequence[Backlog]) -> None:
        self._is_ready, self._parts_up, self._backlogs = is_ready, parts_up, backlogs

    def collect(self) -> Iterator[Metric]:
        """Gauges only."""
        yield GaugeMetricFamily("llm_ready", "Whether /readyz reports ready", value=self._is_ready)
        part_up = GaugeMetricFamily("llm_metrics_part_up", "Whether a part of this page is available", labels=["part"])
        for name, is_up in self._parts_up.items():
            part_up.add_metric([name], is_up)
        yield part_up
        yield from metric_families(self._backlogs)


def _attempt(name: str, part: Callable[[], bytes]) -> tuple[bytes, bool]:
    """The text of `part` and True; a comment with the error and False when it fails."""
    try:
        text = part()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"# no {name} metrics: {reason}\n".encode(), False
    return text if text.endswith(b"\n") or not text else text + b"\n", True
