"""From whatever went wrong with one request to the error that its client gets."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy.errors import InternalFault, InvalidRequest, PolicyError, Unavailable
from llm_policy.triton.request_log import write_lines


def refusal_of(error: BaseException) -> PolicyError:
    """`error` where it is declared, else a fault of ours; a panic in a native library is no Exception.

    Raises:
        KeyboardInterrupt, SystemExit: the process shall end.
    """
    if isinstance(error, PolicyError):
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return internal_fault(error)


def refuse(error: PolicyError) -> Any:
    """The response that says why a request is not answered."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), _status(error)))


def internal_fault(error: BaseException) -> InternalFault:
    """Log where an unexpected fault happened, without its text: that may quote a prompt."""
    reference = uuid.uuid4().hex[:12]
    where = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        where.append(f"{Path(code.co_filename).stem}.{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    line = {"event": "internal_fault", "reference": reference, "error": type(error).__name__, "at": where}
    write_lines([line])  # not by Triton's logger: faults on the desk's thread end here too
    return InternalFault(reference)


def _status(error: PolicyError) -> Any:
    # pb_utils fills in TritonError only after this module is imported: no table at module level.
    if isinstance(error, InvalidRequest):
        return pb_utils.TritonError.INVALID_ARG
    if isinstance(error, Unavailable):
        return pb_utils.TritonError.UNAVAILABLE
    return pb_utils.TritonError.INTERNAL
