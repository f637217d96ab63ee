"""The no-op engine: returns fixed tokens immediately, so that measurements show the policy's cost alone."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from portable_engine.error_response import error_response
from portable_engine.failure import Failure
from portable_engine.guide_types import GUIDE_TYPES, UNKNOWN_GUIDE_TYPE

# Letters have low ids in every byte-level vocabulary.
FIRST_TOKEN_ID = 64
NUM_TOKEN_IDS = 26
_GUIDE_TYPES = frozenset(("", *GUIDE_TYPES))  # an empty one is a row without a guide


class EchoModel:
    """`tensorrt_llm` without a model: returns `request_output_len` fixed tokens and four equal timestamps.

    It ignores guides, but rejects those of a type that no engine here takes.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Do nothing; there is nothing to load."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request."""
        return [_respond(request) for request in requests]

    def finalize(self) -> None:
        """Do nothing; there is nothing to stop."""


def _respond(request: Any) -> Any:
    if not _guide_types(request) <= _GUIDE_TYPES:
        return error_response(Failure("schema_invalid", UNKNOWN_GUIDE_TYPE))
    num_out = _scalars(request, "request_output_len")
    now = np.full(num_out.shape, time.monotonic_ns(), np.int64)
    arrays = {
        "output_ids": _output_ids(int(num_out.max()), len(num_out)),
        "sequence_length": num_out,
        "num_input_tokens": _scalars(request, "input_lengths"),
        "num_output_tokens": num_out,
        "arrival_time_ns": now,
        "first_scheduled_time_ns": now,
        "first_token_time_ns": now,
        "last_token_time_ns": now,
    }
    requested = set(request.requested_output_names())
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, a) for name, a in arrays.items() if name in requested])


@lru_cache(maxsize=64)
def _output_ids(num_tokens: int, num_rows: int) -> Any:
    """The same tokens in every row, [rows, 1, tokens], without the prompt."""
    tokens = np.arange(num_tokens, dtype=np.int32) % NUM_TOKEN_IDS + FIRST_TOKEN_ID
    return np.ascontiguousarray(np.broadcast_to(tokens, (num_rows, 1, num_tokens)))


def _guide_types(request: Any) -> set[str]:
    tensor = pb_utils.get_input_tensor_by_name(request, "guided_decoding_guide_type")
    return set() if tensor is None else {value.decode(errors="replace") for value in tensor.as_numpy().flat}


def _scalars(request: Any, name: str) -> Any:
    """One value per row, [rows, 1]."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1, 1)
