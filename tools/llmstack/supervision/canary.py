"""Canaries: real requests that check the health of the whole ensemble, from preprocess over the engine to postprocess.

A restart costs every client its requests in flight, so a failed canary must not cause one that would not help:

- `overloaded` and `draining` come from a preprocess that works: inconclusive, neither healthy nor failed.
- `ledger_unavailable` is a fault of the disk: inconclusive too. The stubs retry at each request, and a restart frees no
  space.
- A timeout is inconclusive while clients' requests may be in flight (`in_flight_requests`) in an engine that finished
  something within `MAX_STALL_S`. On an otherwise idle server it is a failure.
- `engine_unavailable` comes from a `tensorrt_llm` that works. The engine process is watched by itself
  (`engine_supervisor`), so it is inconclusive too, unless that one has been serving for a while.
- With an engine process a timeout is inconclusive while the engine steps, however long its queue.
- Clients' requests that succeeded since the last canary show as much as the canary itself.

Before an engine that only streams the canary is a request to `ensemble_stream` that wants one response.

After a timeout each Python model is probed: one that hangs is named, also in front of a busy engine. The model of
streams has no part in the canary and is probed after each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

import httpx

from llm_policy.errors import Code, find_code
from llm_policy.release.release import Release
from llm_policy.rules.headers import CANARY_TENANT, CANARY_TOKEN, ENGINE_HASH, QUANTISATION, REQUEST_ID, TENANT
from llmstack.server.command import STREAM_MODEL
from llmstack.server.process import TritonServer
from llmstack.supervision.model_probe import DEAD_STUB, PROBE_TIMEOUT_S, PYTHON_MODELS, find_hung_model
from llmstack.supervision.readiness import CanaryResult
from llmstack.supervision.stub_watch import model_of
from llmstack.supervision.triton_statistics import StatisticsReader, TritonStatistics

MAX_TOKENS = 8
MAX_STALL_S = 120.0
_INCONCLUSIVE_CODES = (Code.OVERLOADED, Code.DRAINING, Code.LEDGER_UNAVAILABLE, Code.ENGINE_UNAVAILABLE)
_ENGINE_MODEL = "tensorrt_llm"
_PROMPT = "Is the service well?"


class ProbeStatus(Enum):
    """What a canary shows about the server; `DEAD` is a failure that needs no second canary."""

    HEALTHY = "healthy"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"
    DEAD = "dead"


class ProbeResult(NamedTuple):
    """The outcome of one canary; `is_serving`: the server answered it, or a client's request since the last canary.

    `models` are those whose stubs are dead or hang.
    """

    status: ProbeStatus
    result: CanaryResult
    is_serving: bool
    models: tuple[str, ...] = ()


class EngineProgress(Protocol):
    """What is known of an engine in a process of its own."""

    @property
    def is_busy(self) -> bool:
        """Whether a request may wait for it without a fault of the server."""

    @property
    def is_settled(self) -> bool:
        """Whether it has been serving for so long that every client has found it."""


class HealthCheckFailed(Exception):
    """The ensemble's answer is an error or not the expected one; the text says which."""


class Canary:
    """Sends health checks to one start of the server. Not thread-safe.

    `statistics` reads the server's counts. `has_in_flight_requests` returns whether clients' requests may be in flight.
    `progress` is None for an engine inside tritonserver. `now_s` is a monotonic clock.
    """

    def __init__(
        self,
        server: TritonServer,
        release: Release,
        statistics: StatisticsReader,
        has_in_flight_requests: Callable[[], bool],
        progress: EngineProgress | None = None,
        now_s: Callable[[], float] = time.monotonic,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
    ) -> None:
        engine = release.manifest.engine
        self._statistics, self._has_in_flight_requests, self._progress = statistics, has_in_flight_requests, progress
        self._now_s, self._probe_timeout_s = now_s, probe_timeout_s
        self._engine_hash, self._model = engine.hash, server.entry_model
        self._inputs = _canary_inputs(release)
        self._headers = {
            ENGINE_HASH: engine.hash,
            QUANTISATION: engine.quantisation,
            TENANT: CANARY_TENANT,
            REQUEST_ID: f"canary-{server.boot_id}",
            CANARY_TOKEN: server.canary_token,
        }
        self._make_again: Callable[[], Canary] = lambda: Canary(
            server, release, statistics, has_in_flight_requests, progress, now_s, probe_timeout_s
        )
        self._client = httpx.Client(base_url=server.http_url, trust_env=False)
        self._progress_at_s = now_s()
        self._num_succeeded = 0
        self._num_unanswered = 0  # canaries since the last answer: Triton still counts them as in flight

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def renewed(self) -> Canary:
        """A canary with a connection of its own, which knows what this one knows."""
        canary = self._make_again()
        canary._progress_at_s, canary._num_succeeded = self._progress_at_s, self._num_succeeded
        return canary

    def probe(self, timeout_s: float) -> ProbeResult:
        """Send one canary and classify the outcome."""
        began = self._now_s()
        error = self._attempt(timeout_s)
        ended = self._now_s()
        self._num_unanswered = self._num_unanswered + 1 if isinstance(error, httpx.TimeoutException) else 0
        statistics = self._try_statistics()
        is_serving = error is None or self._has_served(statistics)
        if is_serving:
            self._progress_at_s = ended
        if statistics is not None:
            self._num_succeeded = statistics.ensemble.num_succeeded
        models = self._find_culprits(error)
        status = ProbeStatus.DEAD if models else self._classify(error, statistics, is_serving)
        result = CanaryResult(error is None, (ended - began) * 1_000, _reason(error), ended)
        return ProbeResult(status, result, is_serving, models)

    def check_engine(self, timeout_s: float) -> None:
        """Check that the answer to a plain request names the manifest's engine; raises as `check` does."""
        self.check({"text_input": _PROMPT, "max_tokens": 1}, timeout_s)

    def check(self, inputs: Mapping[str, Any], timeout_s: float) -> None:
        """Send one request and check its answer.

        Raises:
            HealthCheckFailed: the answer is an error, comes from another engine, has no token or lacks its guide.
            httpx.HTTPError: no answer in time.
        """
        outputs = (self._generate if self._model == STREAM_MODEL else self._infer)(inputs, timeout_s)
        if outputs.get("engine_hash") != [self._engine_hash]:
            raise HealthCheckFailed(f"engine_hash is {outputs.get('engine_hash')}, expected {self._engine_hash}")
        if not outputs.get("num_output_tokens", [0])[0]:
            raise HealthCheckFailed("the engine returned no token")
        if "schema_id" in inputs and outputs.get("resolved_schema_id") != [inputs["schema_id"]]:
            raise HealthCheckFailed(f"the answer is not guided by the schema {inputs['schema_id']}")

    def _infer(self, inputs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        tensors = {"inputs": [_tensor(name, value) for name, value in inputs.items()]}
        answer = self._client.post(
            f"/v2/models/{self._model}/infer", json=tensors, headers=self._headers, timeout=timeout_s
        )
        return {output["name"]: output["data"] for output in _content(answer)["outputs"]}

    def _generate(self, inputs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        body = {**self._headers, **inputs, "stream": False}  # `generate` forwards no headers
        answer = self._client.post(f"/v2/models/{self._model}/generate", json=body, timeout=timeout_s)
        return {name: value if isinstance(value, list) else [value] for name, value in _content(answer).items()}

    def _attempt(self, timeout_s: float) -> Exception | None:
        try:
            self.check(self._inputs, timeout_s)
        except (HealthCheckFailed, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return error
        return None

    def _try_statistics(self) -> TritonStatistics | None:
        try:
            return self._statistics.read()
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    def _find_culprits(self, error: Exception | None) -> tuple[str, ...]:
        """The models whose stubs are dead or hang."""
        if isinstance(error, HealthCheckFailed):
            return tuple(model_of(instance) for instance in DEAD_STUB.findall(str(error)))
        if error is None:  # the canary did not go through the stream's model
            models: list[str] = [] if self._progress is None else [STREAM_MODEL]
        elif isinstance(error, httpx.TimeoutException) and self._model == STREAM_MODEL:
            models = [STREAM_MODEL]
        elif isinstance(error, httpx.TimeoutException):
            models = [model for model in PYTHON_MODELS if model != _ENGINE_MODEL or self._progress is not None]
        else:
            return ()
        hung = find_hung_model(self._client, self._headers, self._statistics, models, self._probe_timeout_s)
        return (hung,) if hung else ()

    def _has_served(self, statistics: TritonStatistics | None) -> bool:
        return statistics is not None and statistics.ensemble.num_succeeded > self._num_succeeded

    def _classify(self, error: Exception | None, statistics: TritonStatistics | None, is_serving: bool) -> ProbeStatus:
        if error is None:
            return ProbeStatus.HEALTHY
        if isinstance(error, HealthCheckFailed):
            return self._classify_error(str(error))
        is_late = isinstance(error, httpx.TimeoutException)
        return ProbeStatus.INCONCLUSIVE if is_late and (is_serving or self._is_busy(statistics)) else ProbeStatus.FAILED

    def _classify_error(self, text: str) -> ProbeStatus:
        code = find_code(text)
        if code is Code.ENGINE_UNAVAILABLE and self._progress is not None and self._progress.is_settled:
            return ProbeStatus.FAILED
        return ProbeStatus.INCONCLUSIVE if code in _INCONCLUSIVE_CODES else ProbeStatus.FAILED

    def _is_busy(self, statistics: TritonStatistics | None) -> bool:
        """Whether an engine process steps, or clients' requests are in flight in an engine inside tritonserver that
        made progress within `MAX_STALL_S`.

        A server that hangs counts cancelled requests for ever; `has_in_flight_requests` leaves them out.
        """
        if self._progress is not None:
            return self._progress.is_busy
        if statistics is None or self._now_s() - self._progress_at_s > MAX_STALL_S:
            return False
        may_be_in_flight = self._model == STREAM_MODEL or statistics.max_in_flight > self._num_unanswered
        return may_be_in_flight and self._has_in_flight_requests()


def warm_up_inputs(release: Release) -> dict[str, dict[str, Any]]:
    """The inputs of one request for every task and every registered schema, by the name of what each warms up."""
    tasks, schemas = list(release.manifest.tasks), sorted(release.manifest.schemas)
    return {
        **{f"task {task}": {"text_input": _PROMPT, "task": task, "max_tokens": MAX_TOKENS} for task in tasks},
        **{f"schema {name}": {"text_input": _PROMPT, "schema_id": name, "max_tokens": MAX_TOKENS} for name in schemas},
    }


def _canary_inputs(release: Release) -> dict[str, Any]:
    """A guided request: by a registered schema, else by any JSON where clients may send their own guides."""
    inputs: dict[str, Any] = {"text_input": _PROMPT, "max_tokens": MAX_TOKENS}
    if release.manifest.schemas:
        return {**inputs, "schema_id": min(release.manifest.schemas)}
    if release.manifest.guidance.allow_adhoc:
        return {**inputs, "guided_decoding_guide_type": "json"}
    return inputs


def _tensor(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1, 1], "datatype": "INT32" if isinstance(value, int) else "BYTES", "data": [value]}


def _reason(error: Exception | None) -> str:
    if error is None:
        return ""
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__


def _content(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != httpx.codes.OK:
        raise HealthCheckFailed(_error_text(answer))
    content: dict[str, Any] = answer.json()
    return content


def _error_text(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
