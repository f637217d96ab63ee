"""Real requests that prove the ensemble: preprocess, the engine and postprocess each had to do their part.

A canary that fails for a reason that no restart mends must not cause one, which would only lose the requests of others:

- `overloaded` and `draining` come from a preprocess that lives. They prove too little to be a success and are no fault.
- A ledger that can't be written is the disk's fault. The stubs try again with each request: no restart makes room.
- One that takes too long is no fault while others' calls may still be under way (`in_flight_requests`) in an engine that
  finished something within `MAX_STALL_S`. A server that is idle otherwise has no such excuse.
- Calls of others that came to a good end since the last canary prove as much as the canary itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import httpx

from llm_policy.errors import Code
from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llm_policy.rules.headers import CANARY_TENANT, CANARY_TOKEN, ENGINE_HASH, QUANTISATION, REQUEST_ID, TENANT
from llm_policy.steps.ledger_writer import UNWRITTEN
from llmstack.server.command import ADMIN_KEY_HEADER
from llmstack.server.process import TritonServer
from llmstack.supervision.readiness import CanaryResult
from llmstack.supervision.triton_statistics import TritonStatistics, read_statistics

MAX_TOKENS = 8
MAX_STALL_S = 120.0
_EXCUSES = (f"{Code.OVERLOADED.value}: ", f"{Code.DRAINING.value}: ", f"{Code.INTERNAL.value}: {UNWRITTEN}")
_ENSEMBLE = re.compile(r"^in ensemble '[^']*', ")
_DEAD_STUB = "is not healthy"
_PROMPT = "Is the service well?"


class ProbeStatus(Enum):
    """What a canary says of the server."""

    PROVEN = "proven"
    EXCUSED = "excused"
    FAILED = "failed"
    DEAD = "dead"


class ProbeResult(NamedTuple):
    """One canary's verdict and what `/readyz` shows of it; `is_proof` when the canary or others were served."""

    verdict: ProbeStatus
    result: CanaryResult
    is_proof: bool


class HealthCheckFailed(Exception):
    """The ensemble did not answer as it should; the text says how."""


class Canary:
    """Sends proofs to one start of the server; not for several threads at once."""

    def __init__(
        self,
        server: TritonServer,
        release: Release,
        has_in_flight_requests: Callable[[], bool],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        engine = release.manifest.engine
        self._others_wait, self._now_s = has_in_flight_requests, now_s
        self._engine_hash = engine.hash
        self._inputs = _canary_inputs(release)
        self._headers = {
            ENGINE_HASH: engine.hash,
            QUANTISATION: engine.quantisation,
            TENANT: CANARY_TENANT,
            REQUEST_ID: f"canary-{server.boot_id}",
            CANARY_TOKEN: server.canary_token,
        }
        self._admin_headers = {ADMIN_KEY_HEADER: server.admin_key}
        self._client = httpx.Client(base_url=server.http_url, trust_env=False)
        self._progress_at_s = now_s()
        self._num_succeeded = 0
        self._num_unanswered = 0  # canaries since the last that was answered: they still wait in the server themselves

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def statistics(self) -> TritonStatistics:
        """The server's own counts.

        Raises:
            httpx.HTTPError: it doesn't tell.
        """
        return read_statistics(self._client, self._admin_headers)

    def probe(self, timeout_s: float) -> ProbeResult:
        """Send one canary and judge what becomes of it."""
        began = self._now_s()
        error = self._attempt(timeout_s)
        ended = self._now_s()
        self._num_unanswered = self._num_unanswered + 1 if isinstance(error, httpx.TimeoutException) else 0
        statistics = self._try_statistics()
        is_proof = error is None or self._has_served(statistics)
        if is_proof:
            self._progress_at_s = ended
        if statistics is not None:
            self._num_succeeded = statistics.ensemble.num_succeeded
        result = CanaryResult(error is None, (ended - began) * 1_000, _reason(error), ended)
        return ProbeResult(self._judge(error, statistics, is_proof), result, is_proof)

    def prove_engine(self, timeout_s: float) -> None:
        """Check that the answer to a plain request names the manifest's engine; raises as `prove` does."""
        self.prove({"text_input": _PROMPT, "max_tokens": 1}, timeout_s)

    def prove(self, inputs: Mapping[str, Any], timeout_s: float) -> None:
        """Send one request and check that its answer is the ensemble's.

        Raises:
            HealthCheckFailed: it was refused, or the answer is another engine's, or it is not guided though it should be.
            httpx.HTTPError: there was no answer in time.
        """
        answer = self._client.post(
            "/v2/models/ensemble/infer",
            json={"inputs": [_tensor(name, value) for name, value in inputs.items()]},
            headers=self._headers,
            timeout=timeout_s,
        )
        if answer.status_code != httpx.codes.OK:
            raise HealthCheckFailed(_error_text(answer))
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        if outputs.get("engine_hash") != [self._engine_hash]:
            raise HealthCheckFailed(f"engine_hash is {outputs.get('engine_hash')}, expected {self._engine_hash}")
        if not outputs.get("num_output_tokens", [0])[0]:
            raise HealthCheckFailed("the engine returned no token")
        if "schema_id" in inputs and outputs.get("resolved_schema_id") != [inputs["schema_id"]]:
            raise HealthCheckFailed(f"the answer is not guided by the schema {inputs['schema_id']}")

    def _attempt(self, timeout_s: float) -> Exception | None:
        try:
            self.prove(self._inputs, timeout_s)
        except (HealthCheckFailed, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return error
        return None

    def _try_statistics(self) -> TritonStatistics | None:
        try:
            return self.statistics()
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    def _has_served(self, statistics: TritonStatistics | None) -> bool:
        return statistics is not None and statistics.ensemble.num_succeeded > self._num_succeeded

    def _judge(self, error: Exception | None, statistics: TritonStatistics | None, is_proof: bool) -> ProbeStatus:
        if error is None:
            return ProbeStatus.PROVEN
        if isinstance(error, HealthCheckFailed):
            return _judge_refusal(str(error))
        is_late = isinstance(error, httpx.TimeoutException)
        return ProbeStatus.EXCUSED if is_late and (is_proof or self._is_busy(statistics)) else ProbeStatus.FAILED

    def _is_busy(self, statistics: TritonStatistics | None) -> bool:
        """Whether others wait in the engine, too, and that for no longer than it may take.

        What clients gave up stays in the counts of a server that hangs for ever: only `has_in_flight_requests` leaves it out.
        """
        if statistics is None or self._now_s() - self._progress_at_s > MAX_STALL_S:
            return False
        return statistics.max_in_flight > self._num_unanswered and self._others_wait()


def warm_up_inputs(release: Release) -> dict[str, dict[str, Any]]:
    """One request for every task and every registered schema, by what it warms up."""
    schemas = sorted(release.manifest.schemas)
    return {
        **{f"task {task}": {"text_input": _PROMPT, "task": task, "max_tokens": MAX_TOKENS} for task in TASKS},
        **{f"schema {name}": {"text_input": _PROMPT, "schema_id": name, "max_tokens": MAX_TOKENS} for name in schemas},
    }


def _canary_inputs(release: Release) -> dict[str, Any]:
    """A guided request: by a registered schema, else by any JSON where clients may send guides at all."""
    inputs: dict[str, Any] = {"text_input": _PROMPT, "max_tokens": MAX_TOKENS}
    if release.manifest.schemas:
        return {**inputs, "schema_id": min(release.manifest.schemas)}
    if release.manifest.guidance.allow_adhoc:
        return {**inputs, "guided_decoding_guide_type": "json"}
    return inputs


def _tensor(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1, 1], "datatype": "INT32" if isinstance(value, int) else "BYTES", "data": [value]}


def _judge_refusal(text: str) -> ProbeStatus:
    if _ENSEMBLE.sub("", text, count=1).startswith(_EXCUSES):
        return ProbeStatus.EXCUSED
    return ProbeStatus.DEAD if _DEAD_STUB in text else ProbeStatus.FAILED


def _reason(error: Exception | None) -> str:
    if error is None:
        return ""
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__


def _error_text(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
