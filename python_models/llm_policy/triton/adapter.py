"""What the models share: the stub's configuration, reading requests, building responses.

An exception that leaves `execute` would fail every request of its batch and show file paths to clients, so the models
catch every exception at its own request. Requests that are worked on together share one ledger transaction, committed
before the first of them is answered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy.errors import Code, InvalidRequest
from llm_policy.release.release import RELEASE_FINGERPRINT, Release, ReleaseError
from llm_policy.rules.row_input import Array
from llm_policy.steps.column import Column
from llm_policy.triton.tensor_cache import TensorCache, new_tensor

RELEASE_DIR = "LLMSTACK_RELEASE_DIR"
STATE_DIR = "LLMSTACK_STATE_DIR"
DEFAULT_RELEASE_DIR = "artifacts/current"
# Tensors whose values differ from request to request: caching them would only evict those that repeat.
UNCACHED = frozenset(
    ("input_ids", "policy_decision", "text_output", "queue_delay_us", "time_to_first_token_us", "total_time_us")
)


def open_release() -> Release:
    """The release to serve, its files verified against the manifest.

    Raises:
        ReleaseError: there is no such release, or its files differ from its manifest.
    """
    release = Release.open(os.environ.get(RELEASE_DIR, DEFAULT_RELEASE_DIR))
    return release.verify_files(os.environ.get(RELEASE_FINGERPRINT, ""))


def state_directory() -> Path:
    """The directory of the ledger.

    Raises:
        ReleaseError: the environment does not name one.
    """
    directory = os.environ.get(STATE_DIR)
    if not directory:
        raise ReleaseError(f"{STATE_DIR} is not set: the server needs a directory for its ledger")
    return Path(directory)


def read_parameters(request: Any) -> str:
    """The request's parameters as JSON text, including forwarded headers.

    Raises:
        InvalidRequest: `invalid_header`, a header is not text.
    """
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise InvalidRequest(Code.INVALID_HEADER, "a header holds bytes that are not printable ASCII") from None


def read_inputs(request: Any) -> dict[str, Array]:
    """The request's tensors by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def build_response(cache: TensorCache, columns: Mapping[str, Array | Column]) -> Any:
    """A response with these output tensors."""
    return pb_utils.InferenceResponse(
        [
            new_tensor(name, values) if name in UNCACHED else cache.tensor(name, values)
            for name, values in columns.items()
        ]
    )
