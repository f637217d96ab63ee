"""A stand-in for `triton_python_backend_utils`, which exists inside a stub of Triton's Python backend only.

It has what the models use and nothing else; `tests/integration/test_triton_backend.py` compares both. The second half
is the server's part: it imports a model, gives it requests and shows what their clients receive.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
STATUSES = {"INTERNAL": 1, "INVALID_ARG": 3, "UNAVAILABLE": 4, "CANCELLED": 7}


class TritonModelException(Exception):
    """Raised for an invalid use of the backend."""


class TritonError:
    INTERNAL = STATUSES["INTERNAL"]
    INVALID_ARG = STATUSES["INVALID_ARG"]
    UNAVAILABLE = STATUSES["UNAVAILABLE"]
    CANCELLED = STATUSES["CANCELLED"]

    def __init__(self, message: str, code: int) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, array: Array) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        """The array as it was given here; `transfer` makes the array that arrives elsewhere."""
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._output_tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._output_tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class ResponseSender:
    def __init__(self, request: InferenceRequest) -> None:
        self._request = request

    @property
    def request_id(self) -> str:
        """For tests; the real one has none."""
        return self._request.request_id()

    def is_cancelled(self) -> bool:
        return self._request.is_cancelled

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        self._request.receive(response, is_final=flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class InferenceRequest:
    """One request. `parameters` is the JSON text of the client's parameters and forwarded headers."""

    def __init__(
        self,
        inputs: Mapping[str, Array],
        requested_output_names: Sequence[str],
        request_id: str = "",
        parameters: bytes = b"{}",
    ) -> None:
        self._inputs = [Tensor(name, transfer(array)) for name, array in inputs.items()]
        self._requested_output_names = list(requested_output_names)
        self._request_id = request_id
        self._parameters = parameters
        self._timeout_us = 0
        self._answer: Answer | None = None
        self._lock = threading.Lock()
        self._is_answered = threading.Event()
        self.is_cancelled = False

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> list[str]:
        return self._requested_output_names

    def request_id(self) -> str:
        return self._request_id

    def parameters(self) -> str:
        """Raises UnicodeDecodeError if a header is not UTF-8."""
        return self._parameters.decode()

    def timeout(self) -> int:
        """The client's parameter `timeout` in microseconds, 0 without one."""
        return self._timeout_us

    def get_response_sender(self) -> ResponseSender:
        return ResponseSender(self)

    # What follows is the server's and the client's part.

    def cancel(self) -> None:
        self.is_cancelled = True

    def set_timeout(self, timeout_us: int) -> None:
        self._timeout_us = timeout_us

    def receive(self, response: InferenceResponse, *, is_final: bool) -> None:
        """What a response sender sends."""
        assert is_final, "a model that is not decoupled sends one response"
        self.deliver(response)

    def deliver(self, response: InferenceResponse) -> None:
        """Give the client its response, without the outputs that it did not request."""
        answer = _answer(response, self._requested_output_names)
        with self._lock:
            if self._is_answered.is_set():
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than one response."
                )
            self._answer = answer
            self._is_answered.set()

    def answer(self, timeout_s: float = 150.0) -> Answer:
        """What the client receives; waits for it."""
        assert self._is_answered.wait(timeout_s), f"no response within {timeout_s:g} s"
        assert self._answer is not None
        return self._answer

    @property
    def is_answered(self) -> bool:
        return self._is_answered.is_set()


class StreamRequest(InferenceRequest):
    """A request to a decoupled model: any number of responses, the last of which is marked as final."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answers: list[Answer] = []

    def receive(self, response: InferenceResponse, *, is_final: bool) -> None:
        with self._lock:
            if self._is_answered.is_set():
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            self.answers.append(_answer(response, self.requested_output_names()))
            if is_final:
                self._is_answered.set()

    def all_answers(self, timeout_s: float = 150.0) -> list[Answer]:
        """Every response, once the final one has come."""
        assert self._is_answered.wait(timeout_s), f"no final response within {timeout_s:g} s"
        return self.answers


class Logger:
    @staticmethod
    def log_error(text: str) -> None:
        """Write to the server's log."""
        print(json.dumps(text), file=sys.stderr)


_MODULE = "triton_python_backend_utils"
# The module's names: those that exist while a model is imported, and those that exist afterwards.
_AT_IMPORT = ("TRITONSERVER_RESPONSE_COMPLETE_FINAL",)
_AFTER_IMPORT = ("InferenceResponse", "Logger", "Tensor", "TritonError")
NAMES = (*_AT_IMPORT, *_AFTER_IMPORT)


class Answer(NamedTuple):
    """What a client receives: outputs by name, or an error's text and the name of its status."""

    outputs: dict[str, Array]
    error: str | None = None
    status: str | None = None


def transfer(array: Array) -> Array:
    """The array that arrives at another process: contiguous, strings as bytes."""
    if array.dtype != np.object_:
        return array.copy(order="C")
    arrived = np.empty(array.shape, np.object_)
    for index, value in np.ndenumerate(array):
        arrived[index] = value.encode() if isinstance(value, str) else bytes(value)
    return arrived


def execute(model: Any, *requests: InferenceRequest) -> None:
    """Let `model` execute one batch. A request without a response must have taken its sender."""
    responses = model.execute(list(requests))
    assert len(responses) == len(requests)
    for request, response in zip(requests, responses, strict=True):
        if response is not None:
            request.deliver(response)


def infer(model: Any, *requests: InferenceRequest) -> list[Answer]:
    """Execute one batch and wait for all its answers."""
    execute(model, *requests)
    return [request.answer() for request in requests]


@contextmanager
def installed(*names: str) -> Iterator[list[ModuleType]]:
    """Import the modules `names` with the stand-in. Modules that hold it are forgotten at the end.

    As in a stub, the classes exist only after the import.
    """
    stand_in = ModuleType(_MODULE)
    sys.modules[_MODULE] = stand_in
    try:
        vars(stand_in).update({name: globals()[name] for name in _AT_IMPORT})
        modules = [importlib.import_module(name) for name in names]
        vars(stand_in).update({name: globals()[name] for name in _AFTER_IMPORT})
        yield modules
    finally:
        holders = [name for name, module in sys.modules.items() if vars(module).get("pb_utils") is stand_in]
        for name in {*holders, *names, _MODULE}:
            sys.modules.pop(name, None)


def _answer(response: InferenceResponse, requested: Sequence[str]) -> Answer:
    if (error := response.error()) is not None:
        status = next(name for name, code in STATUSES.items() if code == error.code())
        return Answer({}, error.message(), status)
    tensors = response.output_tensors()
    return Answer({tensor.name(): transfer(tensor.as_numpy()) for tensor in tensors if tensor.name() in requested})
