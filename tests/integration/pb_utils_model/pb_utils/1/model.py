"""Uses each feature of `pb_utils` that the policy and the portable engine use, and answers with what it saw.

The test runs this model in a real server and with the stand-in of `tests/pb_utils.py`.
"""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

NAMES = ("InferenceResponse", "Logger", "Tensor", "TritonError")
NAMES_AT_IMPORT = [name for name in NAMES if hasattr(pb_utils, name)]
STATUSES = ("INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED")
CANCEL_TIMEOUT_S = 10.0
HOLD_S = 0.5


class TritonPythonModel:
    def initialize(self, args):
        self._seen = {}  # what the last thread saw
        self._thread = None
        self._shared_tensor = pb_utils.Tensor("texts", np.array([[b"shared"]], np.object_))

    def execute(self, requests):
        return [self._respond(request, len(requests)) for request in requests]

    def _respond(self, request, batch_size):
        """The input `scenario` has a method's name and its argument; by default the number of requests in the batch."""
        scenario = _find(request, "scenario").as_numpy()[0, 0].decode()
        name, _, argument = scenario.partition(" ")
        return getattr(self, name)(request, argument or batch_size)

    def request(self, request, _):
        """The parts of a request."""
        return report(
            id=request.request_id(),
            requested=sorted(request.requested_output_names()),
            inputs={tensor.name(): describe(tensor.as_numpy()) for tensor in request.inputs()},
            texts=describe(_find(request, "texts").as_numpy()),
            timeout=request.timeout(),
            absent=_find(request, "switches") is None,
        )

    def parameters(self, request, _):
        """The parameters, or that they are not UTF-8."""
        try:
            text = request.parameters()
        except UnicodeDecodeError:
            return report(error="UnicodeDecodeError")
        return report(type=type(text).__name__, parameters=json.loads(text))

    def module(self, request, _):
        """The names of the module, and responses as their creator sees them."""
        response = pb_utils.InferenceResponse([self._shared_tensor])
        failed = error_response("INVALID_ARG")
        return report(
            names_at_import=NAMES_AT_IMPORT,
            names=[name for name in NAMES if hasattr(pb_utils, name)],
            final_flag=int(pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL),
            statuses={name: int(getattr(pb_utils.TritonError, name)) for name in STATUSES},
            outputs={tensor.name(): describe(tensor.as_numpy()) for tensor in response.output_tensors()},
            has_error=[response.has_error(), failed.has_error()],
            error=[failed.error().message(), int(failed.error().code())],
            no_error=response.error() is None,
        )

    def outputs(self, request, _):
        """Every kind of array that the models send; one is not contiguous."""
        ids = np.arange(6, dtype=np.int32).reshape(1, 6)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("report", np.array([["é\0".encode()]], np.object_)),
                pb_utils.Tensor("texts", np.array([[b"", b"\xff\0", "text"]], np.object_)),
                pb_utils.Tensor("int32s", ids[:, ::2]),
                pb_utils.Tensor("int64s", np.array([[2**62]], np.int64)),
                pb_utils.Tensor("doubles", np.array([[0.1]], np.float64)),
            ]
        )

    def empty(self, request, _):
        """Arrays without values."""
        texts, ids = np.empty((1, 0), np.object_), np.empty((1, 0), np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("texts", texts), pb_utils.Tensor("int32s", ids)])

    def shared(self, request, _):
        """The same tensor in every response."""
        return pb_utils.InferenceResponse([self._shared_tensor])

    def error(self, request, status):
        return error_response(status)

    def batch(self, request, batch_size):
        """An error for the request `bad`; the size of the batch for others."""
        return error_response("UNAVAILABLE") if request.request_id() == "bad" else report(batch_size=batch_size)

    def hold(self, request, _):
        """Keep the model busy, so that the next requests become one batch."""
        time.sleep(HOLD_S)
        return report()

    def fail(self, request, _):
        """Let an exception leave `execute`."""
        raise ZeroDivisionError("a detail")

    def later(self, request, _):
        """Respond on another thread."""
        return self._start(self._send_twice, request, report(sent="later"))

    def later_outputs(self, request, _):
        """Respond on another thread, with `outputs`."""
        return self._start(self._send_twice, request, self.outputs(request, _))

    def later_error(self, request, status):
        """Respond on another thread with an error."""
        return self._start(self._send_twice, request, error_response(status))

    def sender_unused(self, request, _):
        """Take a response sender, but respond from `execute`."""
        request.get_response_sender()
        return report(sent="from execute")

    def cancellation(self, request, _):
        """Wait on another thread until the client cancels."""
        return self._start(self._await_cancellation, request)

    def log(self, request, text):
        pb_utils.Logger.log_error(text)
        return report()

    def progress(self, request, _):
        """What the last thread saw so far."""
        return report(**self._seen)

    def recall(self, request, _):
        """What the last thread saw, once it has ended."""
        self._thread.join()
        return report(**self._seen)

    def _start(self, work, request, *arguments):
        self._seen = {}
        self._thread = threading.Thread(target=work, args=(request.get_response_sender(), *arguments))
        self._thread.start()

    def _send_twice(self, sender, response):
        self._seen["is_cancelled"] = sender.is_cancelled()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        try:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:
            self._seen["second_send"] = [type(error).__name__, str(error)]

    def _await_cancellation(self, sender):
        self._seen["before"] = sender.is_cancelled()
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while not sender.is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._seen["after"] = sender.is_cancelled()
        sender.send(error_response("CANCELLED"), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def report(**seen):
    text = json.dumps(seen).encode()
    return pb_utils.InferenceResponse([pb_utils.Tensor("report", np.array([[text]], np.object_))])


def error_response(status):
    error = pb_utils.TritonError(f"{status.lower()}: detail", getattr(pb_utils.TritonError, status))
    return pb_utils.InferenceResponse(error=error)


def describe(array):
    """Data type, shape and values, with bytes as Latin-1 and the type of an element."""
    values = [value.decode("latin-1") if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]
    return [str(array.dtype), type(array.reshape(-1)[0]).__name__, list(array.shape), values]


def _find(request, name):
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)
