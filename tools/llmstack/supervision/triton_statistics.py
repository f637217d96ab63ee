"""Triton's request counts of each model, read over HTTP.

Measured on Triton 2.51: a Python model's answer counts as success when `execute` returns, also when it is an error; a
failed request counts twice on the ensemble; a cancelled one counts as failed once the engine has made its tokens. The
counts of a model that is loaded anew, and those of the ensembles around it, begin again at 0.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import httpx

from llmstack.server.command import ENSEMBLE, STREAM_MODEL

TIMEOUT_S = 2.0
# The statistics API needs no key today. The key is sent in case it is restricted like the other administrative APIs.
_PATH = "/v2/models/stats"
_FAILURES_PER_REQUEST = 2


class RequestCounts(NamedTuple):
    """The ended requests of one model since the server's start."""

    num_succeeded: int = 0
    num_failed: int = 0

    @property
    def num_ended(self) -> int:
        """All of them."""
        return self.num_succeeded + self.num_failed

    def plus(self, other: RequestCounts) -> RequestCounts:
        """The sums."""
        return RequestCounts(self.num_succeeded + other.num_succeeded, self.num_failed + other.num_failed)


class TritonStatistics(NamedTuple):
    """The counts of the ensemble and of its models."""

    preprocess: RequestCounts = RequestCounts()
    engine: RequestCounts = RequestCounts()
    postprocess: RequestCounts = RequestCounts()
    ensemble: RequestCounts = RequestCounts()

    @property
    def num_ended(self) -> int:
        """Requests of the ensemble that ended, successfully or not; grows while the server makes progress."""
        return self.ensemble.num_succeeded + self.ensemble.num_failed // _FAILURES_PER_REQUEST

    @property
    def max_in_flight(self) -> int:
        """An upper bound of the requests in flight; includes cancelled ones that the engine still works on.

        It also includes for ever those that were in flight when a model was loaded anew.
        """
        return max(0, self.preprocess.num_ended - self.num_ended)

    @property
    def num_failed_after_admission(self) -> int:
        """Requests that preprocess admitted and that failed in the engine or in postprocess."""
        return self.engine.num_failed + self.postprocess.num_failed


class StatisticsReader:
    """Reads the counts of one start of the server; those of a model that is loaded anew go on. Thread-safe.

    `entry_model` answers every request. If that is `ensemble_stream`, an engine's answer counts as one of the ensemble
    and nothing else does: that model closes all rows itself, and the ledger knows what is in flight.
    """

    def __init__(self, http_url: str, admin_headers: Mapping[str, str], entry_model: str = ENSEMBLE) -> None:
        self._entry_model = entry_model
        self._client = httpx.Client(base_url=http_url, headers=dict(admin_headers), trust_env=False)
        self._lock = threading.Lock()
        self._before: dict[str, RequestCounts] = {}  # of what a reload replaced
        self._last: dict[str, RequestCounts] = {}  # as Triton counted them
        self._reloading: set[str] = set()

    def close(self) -> None:
        """Close the connection; a later read raises RuntimeError."""
        self._client.close()

    def read(self) -> TritonStatistics:
        """The current counts.

        Raises:
            httpx.HTTPError: no answer in time, or a status other than 200.
        """
        counts = self.read_models()
        if self._entry_model == STREAM_MODEL:
            return TritonStatistics(ensemble=RequestCounts(counts.get("tensorrt_llm", _NONE).num_succeeded))
        names = ("preprocess", "tensorrt_llm", "postprocess", ENSEMBLE)
        return TritonStatistics(*(counts.get(name, RequestCounts()) for name in names))

    def read_models(self) -> dict[str, RequestCounts]:
        """The current counts of every model, by its name; raises as `read` does."""
        with self._lock:
            answer = self._client.get(_PATH, timeout=TIMEOUT_S).raise_for_status()
            read = {model["name"]: _counts(model["inference_stats"]) for model in answer.json()["model_stats"]}
            for name in list(self._reloading):
                if read.get(name, _NONE).num_ended < self._last.get(name, _NONE).num_ended:
                    self._begin_again(name)
            self._last.update(read)
            return {name: counts.plus(self._before.get(name, _NONE)) for name, counts in self._last.items()}

    @contextlib.contextmanager
    def reloading(self, model: str) -> Iterator[None]:
        """Around a reload of `model`, so that its counts and the ensemble's go on. Reads in between are welcome:
        what Triton counted after the last of them is lost."""
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            self.read_models()
        with self._lock:
            self._reloading = {model} if model == STREAM_MODEL else {model, ENSEMBLE}
        try:
            yield
        finally:
            with self._lock:
                for name in list(self._reloading):
                    self._begin_again(name)

    def _begin_again(self, name: str) -> None:
        self._before[name] = self._before.get(name, _NONE).plus(self._last.get(name, _NONE))
        self._last[name] = _NONE
        self._reloading.discard(name)


_NONE = RequestCounts()


def _counts(statistics: dict[str, dict[str, int]]) -> RequestCounts:
    return RequestCounts(statistics["success"]["count"], statistics["fail"]["count"])
