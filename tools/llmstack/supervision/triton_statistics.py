"""What Triton counts of each model, read over HTTP.

Measured on Triton 2.51: a Python model's answer counts as success when `execute` returns, refusals among them; a failed
call counts twice on the ensemble; one that its client cancelled counts as failed, once the engine has made its tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import httpx

TIMEOUT_S = 2.0
# The statistics API is open today; with the key it also answers should it be restricted like the others.
_PATH = "/v2/models/stats"
_FAILURES_PER_CALL = 2


class CallCounts(NamedTuple):
    """Requests of one model since the server's start."""

    num_succeeded: int = 0
    num_failed: int = 0


class TritonStatistics(NamedTuple):
    """The models of the ensemble."""

    preprocess: CallCounts = CallCounts()
    engine: CallCounts = CallCounts()
    postprocess: CallCounts = CallCounts()
    ensemble: CallCounts = CallCounts()

    @property
    def num_ended(self) -> int:
        """CallCounts of the ensemble that ended, well or not: it grows while the server makes progress."""
        return self.ensemble.num_succeeded + self.ensemble.num_failed // _FAILURES_PER_CALL

    @property
    def max_in_flight(self) -> int:
        """No more calls than this are under way; cancelled ones are among them until the engine is done with them."""
        return max(0, self.preprocess.num_succeeded + self.preprocess.num_failed - self.num_ended)

    @property
    def num_dead(self) -> int:
        """CallCounts that preprocess admitted and that the engine or postprocess failed, as far as Triton counts them."""
        return self.engine.num_failed + self.postprocess.num_failed


def read_statistics(client: httpx.Client, admin_headers: dict[str, str]) -> TritonStatistics:
    """The counts right now; `client` has the server as its base URL.

    Raises:
        httpx.HTTPError: no answer in time, or another than 200.
    """
    answer = client.get(_PATH, headers=admin_headers, timeout=TIMEOUT_S).raise_for_status()
    calls = {model["name"]: _calls(model["inference_stats"]) for model in answer.json()["model_stats"]}
    names = ("preprocess", "tensorrt_llm", "postprocess", "ensemble")
    return TritonStatistics(*(calls.get(name, CallCounts()) for name in names))


def _calls(statistics: dict[str, dict[str, int]]) -> CallCounts:
    return CallCounts(statistics["success"]["count"], statistics["fail"]["count"])
