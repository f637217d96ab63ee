"""Triton's request counts of each model, read over HTTP.

Measured on Triton 2.51: a Python model's answer counts as success when `execute` returns, also when it is an error; a
failed request counts twice on the ensemble; a cancelled one counts as failed once the engine has made its tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import httpx

TIMEOUT_S = 2.0
# The statistics API needs no key today. The key is sent in case it is restricted like the other administrative APIs.
_PATH = "/v2/models/stats"
_FAILURES_PER_REQUEST = 2


class RequestCounts(NamedTuple):
    """The ended requests of one model since the server's start."""

    num_succeeded: int = 0
    num_failed: int = 0


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
        """An upper bound of the requests in flight; includes cancelled ones that the engine still works on."""
        return max(0, self.preprocess.num_succeeded + self.preprocess.num_failed - self.num_ended)

    @property
    def num_failed_after_admission(self) -> int:
        """Requests that preprocess admitted and that failed in the engine or in postprocess."""
        return self.engine.num_failed + self.postprocess.num_failed


def read_statistics(client: httpx.Client, admin_headers: dict[str, str]) -> TritonStatistics:
    """The current counts; `client` has the server as its base URL.

    Raises:
        httpx.HTTPError: no answer in time, or a status other than 200.
    """
    answer = client.get(_PATH, headers=admin_headers, timeout=TIMEOUT_S).raise_for_status()
    counts = {model["name"]: _counts(model["inference_stats"]) for model in answer.json()["model_stats"]}
    names = ("preprocess", "tensorrt_llm", "postprocess", "ensemble")
    return TritonStatistics(*(counts.get(name, RequestCounts()) for name in names))


def _counts(statistics: dict[str, dict[str, int]]) -> RequestCounts:
    return RequestCounts(statistics["success"]["count"], statistics["fail"]["count"])
