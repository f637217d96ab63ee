"""Turns any exception raised for one request into the error that its client receives."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy.api_key import without_keys
from llm_policy.errors import InternalFault, PolicyError
from llm_policy.triton.request_log import write_lines


def as_policy_error(error: BaseException) -> PolicyError:
    """`error` itself if it is declared, else a logged `InternalFault`.

    Takes BaseException because a panic in a native library is not an Exception.

    Raises:
        KeyboardInterrupt, SystemExit: passed on; they end the process.
    """
    if isinstance(error, PolicyError):
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return internal_fault(error)


def error_response(error: PolicyError) -> Any:
    """The response with the error's text and Triton status. No text shows an API key."""
    status = getattr(pb_utils.TritonError, error.status.name)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(without_keys(str(error)), status))


def cancelled_response() -> Any:
    """The response to a request that its client cancelled; nobody reads its text."""
    error = pb_utils.TritonError("the client cancelled the request", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)


def internal_fault(error: BaseException) -> InternalFault:
    """Log the type and location of an unexpected exception, without its text, which may quote a prompt."""
    reference = uuid.uuid4().hex[:12]
    where = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        where.append(f"{Path(code.co_filename).stem}.{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    line = {"event": "internal_fault", "reference": reference, "error": type(error).__name__, "at": where}
    write_lines([line])  # not Triton's logger: the guide compiler's thread uses this too
    return InternalFault(reference)
