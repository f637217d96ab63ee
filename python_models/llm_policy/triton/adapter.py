"""Between Triton's Python backend and the steps: where the stub works, and tensors in and out.

One exception that leaves `execute` would fail every request of its batch and show the client file paths; so both models
catch every fault at its own request. All requests of one `execute` share one transaction of the ledger, committed
before the first of them is answered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy.errors import Code, InvalidRequest
from llm_policy.ledger.ledger import OpenRow
from llm_policy.release.release import PROOF, Release, ReleaseError
from llm_policy.rules.request import Array, Column
from llm_policy.steps.decision import Decision
from llm_policy.triton.tensor_cache import TensorCache, new_tensor

RELEASE_DIR = "LLMSTACK_RELEASE_DIR"
STATE_DIR = "LLMSTACK_STATE_DIR"
DEFAULT_RELEASE_DIR = "artifacts/current"
# Values that differ from request to request: keeping their tensors would only push out those that repeat.
NEVER_REPEATS = frozenset(
    ("input_ids", "policy_decision", "text_output", "queue_delay_us", "time_to_first_token_us", "total_time_us")
)


def open_release() -> Release:
    """The release in service, its files proven."""
    return Release.open(os.environ.get(RELEASE_DIR, DEFAULT_RELEASE_DIR)).verify_files(os.environ.get(PROOF, ""))


def state_directory() -> Path:
    """Where the ledger is.

    Raises:
        ReleaseError: nobody said where.
    """
    directory = os.environ.get(STATE_DIR)
    if not directory:
        raise ReleaseError(f"{STATE_DIR} is not set: nothing is served that can't be written into a ledger")
    return Path(directory)


def parameters_of(request: Any) -> str:
    """The request's parameters as JSON text, forwarded headers among them.

    Raises:
        InvalidRequest: `invalid_header`, a header is no text.
    """
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise InvalidRequest(Code.INVALID_HEADER, "a header holds bytes that are no printable ASCII") from None


def arrays_of(request: Any) -> dict[str, Array]:
    """The request's tensors by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def respond(cache: TensorCache, columns: Mapping[str, Array | Column]) -> Any:
    """A response with these tensors."""
    return pb_utils.InferenceResponse(
        [
            new_tensor(name, values) if name in NEVER_REPEATS else cache.tensor(name, values)
            for name, values in columns.items()
        ]
    )


def open_row(decision: Decision) -> OpenRow:
    """The admitted row of the ledger that `decision` is about."""
    return OpenRow(decision.ledger_id, decision.task, decision.is_canary)
