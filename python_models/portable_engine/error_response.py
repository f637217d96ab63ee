"""A failure as a response of Triton's Python backend."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from portable_engine.failure import Failure


def error_response(failure: Failure) -> Any:
    """The response with the failure's text, and the status of its code."""
    # Not a table at module level: pb_utils defines TritonError only after this module is imported.
    error = pb_utils.TritonError
    status = {"internal": error.INTERNAL, "overloaded": error.UNAVAILABLE, "draining": error.UNAVAILABLE}
    return pb_utils.InferenceResponse(error=error(str(failure), status.get(failure.code, error.INVALID_ARG)))
