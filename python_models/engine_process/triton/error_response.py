"""A failure as a response of Triton's Python backend."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

_UNAVAILABLE = frozenset(("overloaded", "draining", "engine_unavailable"))


def error_response(code: str, detail: str) -> Any:
    """The response with a policy's error code, its detail, and the status of the code."""
    # Not a table at module level: pb_utils defines TritonError only after this module is imported.
    error = pb_utils.TritonError
    status = error.INVALID_ARG
    if code in _UNAVAILABLE:
        status = error.UNAVAILABLE
    elif code == "internal":
        status = error.INTERNAL
    return pb_utils.InferenceResponse(error=error(f"{code}: {detail}", status))
