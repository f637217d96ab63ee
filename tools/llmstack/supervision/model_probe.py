"""Finds the model whose stub hangs, once a canary got no answer: its process may be alive and its `execute` stuck.

Each Python model gets a request of its own, which it rejects at once. A model hangs when Triton says that its process
is not healthy, or when it executes nothing, by Triton's counts, as long as that request waits. A model that is
only busy executes others meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from llmstack.server.command import STREAM_MODEL
from llmstack.supervision.triton_statistics import RequestCounts, StatisticsReader

PROBE_TIMEOUT_S = 10.0
# Triton gives up a stub that died or is stopped.
DEAD_STUB = re.compile(r"Stub process '(\w+)' is not healthy")


def find_hung_model(
    client: httpx.Client,
    headers: Mapping[str, str],
    statistics: StatisticsReader,
    models: Sequence[str],
    timeout_s: float = PROBE_TIMEOUT_S,
) -> str:
    """The first of `models` that hangs; empty if none does.

    `headers` are the canary's, whose requests count in no total.
    """
    for model in models:
        before = _num_ended(statistics, model)
        answer = "" if before is None else _answer(client, headers, model, timeout_s)
        is_idle = answer is None and _num_ended(statistics, model) == before
        if is_idle or (answer and DEAD_STUB.search(answer)):
            return model
    return ""


def _answer(client: httpx.Client, headers: Mapping[str, str], model: str, timeout_s: float) -> str | None:
    """The answer's text; None if there is none in time."""
    try:
        if model == STREAM_MODEL:  # `generate` forwards no headers: they are members of the body
            body = {**headers, "text_input": "", "stream": False}
            return client.post(f"/v2/models/{model}/generate", json=body, timeout=timeout_s).text
        path, request = f"/v2/models/{model}/infer", _INVALID_REQUESTS[model]
        return client.post(path, json=request, headers=headers, timeout=timeout_s).text
    except httpx.TimeoutException:
        return None
    except httpx.HTTPError:  # the server ended, which others notice
        return ""


def _num_ended(statistics: StatisticsReader, model: str) -> int | None:
    """None when Triton doesn't answer."""
    try:
        return statistics.read_models().get(model, RequestCounts()).num_ended
    except (httpx.HTTPError, ValueError, KeyError):
        return None


def _tensor(name: str, data_type: str, data: Sequence[Any], shape: Sequence[int] = (1, 1)) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": data_type, "data": list(data)}


_CLOCKS = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
# Complete for Triton, so that they reach the model; each breaks a rule of the model itself.
_INVALID_REQUESTS: Mapping[str, Any] = {
    "preprocess": {"inputs": [_tensor("text_input", "BYTES", [""]), _tensor("max_tokens", "INT32", [0])]},
    "tensorrt_llm": {
        "inputs": [
            _tensor("input_ids", "INT32", [0]),
            _tensor("input_lengths", "INT32", [1]),
            _tensor("request_output_len", "INT32", [0]),
            _tensor("beam_width", "INT32", [2]),
        ]
    },
    "postprocess": {
        "inputs": [
            _tensor("output_ids", "INT32", [0], (1, 1, 1)),
            _tensor("sequence_length", "INT32", [1]),
            *(_tensor(clock, "INT64", [0]) for clock in _CLOCKS),
            _tensor("num_output_tokens", "INT32", [1]),
            _tensor("policy_decision", "UINT8", [0], (1, 1)),
        ]
    },
}
PYTHON_MODELS = tuple(_INVALID_REQUESTS)
