"""The stand-in of `tests/pb_utils.py` behaves like Triton's Python backend in everything that the models use.

The same model runs in a real server and with the stand-in, and the same calls go to both.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from llmstack.server.process import TritonServer
from tests import pb_utils
from tests.pb_utils import Answer

MODELS = Path(__file__).parent / "pb_utils_model"
NAME = "pb_utils"
MODEL_DIR = MODELS / NAME / "1"
OUTPUTS = ("report", "texts", "int32s", "int64s", "doubles")
DATA_TYPES = {
    "object": "BYTES",
    "int32": "INT32",
    "uint64": "UINT64",
    "float32": "FP32",
    "bool": "BOOL",
    "uint8": "UINT8",
}
STATUSES = {"INVALID_ARGUMENT": "INVALID_ARG"}  # gRPC's name → Triton's, where they differ
TIMEOUT_S = 20.0
INPUTS = {
    "texts": np.array([["é".encode(), b"\xff\0", b""]], np.object_),
    "int32s": np.array([[-1, 2]], np.int32),
    "uint64s": np.array([[2**63]], np.uint64),
    "floats": np.array([[0.5]], np.float32),
    "bytes": np.array([[0, 255]], np.uint8),
}

pytestmark = pytest.mark.server


class Live:
    """Calls the model in a real server."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._client = triton_grpc.InferenceServerClient(server.grpc_url)

    def call(self, scenario: str, inputs: Any = (), outputs: Any = OUTPUTS, request_id: str = "") -> Answer:
        return self._wait(self.start(scenario, inputs, outputs, request_id))

    def start(self, scenario: str, inputs: Any = (), outputs: Any = OUTPUTS, request_id: str = "") -> Any:
        tensors = []
        for name, array in {"scenario": text_input(scenario), **dict(inputs)}.items():
            tensor = triton_grpc.InferInput(name, list(array.shape), DATA_TYPES[str(array.dtype)])
            tensors.append(tensor.set_data_from_numpy(array))
        done: list[Any] = []
        requested = [triton_grpc.InferRequestedOutput(name) for name in outputs]
        context = self._client.async_infer(
            NAME, tensors, lambda result, error: done.append((result, error)), request_id=request_id, outputs=requested
        )
        return context, done

    def _wait(self, started: Any) -> Answer:
        _, done = started
        wait_until(lambda: bool(done))
        result, error = done[0]
        if error is not None:
            status = error.status().removeprefix("StatusCode.")
            return Answer({}, error.message(), STATUSES.get(status, status))
        return Answer({output.name: result.as_numpy(output.name) for output in result.get_response().outputs})

    def call_batch(self, *calls: dict[str, Any]) -> list[Answer]:
        """Calls that arrive while the model is busy, so that they become one batch."""
        # A batch has requests with the same inputs only, so this one is executed alone.
        held = self.start("hold", {"int32s": np.zeros((1, 1), np.int32)})
        time.sleep(0.1)
        started = [self.start(**call) for call in calls]
        return [self._wait(call) for call in (held, *started)][1:]

    def cancel(self, started: Any) -> None:
        started[0].cancel()

    def call_with_header(self, value: bytes) -> Any:
        """The report about a request whose header X-Tenant is `value`."""
        tensor = {"name": "scenario", "shape": [1, 1], "datatype": "BYTES", "data": ["parameters"]}
        url = f"{self._server.http_url}/v2/models/{NAME}/infer"
        reply = httpx.post(url, json={"inputs": [tensor]}, headers=[(b"X-Tenant", value)], timeout=TIMEOUT_S)
        return json.loads(reply.json()["outputs"][0]["data"][0])

    def read_log(self) -> str:
        return self._server.log_path.read_text()


class StandIn:
    """Calls the model in this process."""

    def __init__(self, model: Any, read_log: Callable[[], str]) -> None:
        self._model = model
        self.read_log = read_log

    def call(self, scenario: str, inputs: Any = (), outputs: Any = OUTPUTS, request_id: str = "") -> Answer:
        return self.start(scenario, inputs, outputs, request_id).answer(TIMEOUT_S)

    def start(
        self, scenario: str, inputs: Any = (), outputs: Any = OUTPUTS, request_id: str = ""
    ) -> pb_utils.InferenceRequest:
        request = make_request(scenario, inputs, outputs, request_id)
        pb_utils.execute(self._model, request)
        return request

    def call_batch(self, *calls: dict[str, Any]) -> list[Answer]:
        return pb_utils.infer(self._model, *(make_request(**call) for call in calls))

    def cancel(self, started: pb_utils.InferenceRequest) -> None:
        started.cancel()

    def call_with_header(self, value: bytes) -> Any:
        parameters = b'{"X-Tenant":"%s"}' % value
        request = pb_utils.InferenceRequest({"scenario": text_input("parameters")}, OUTPUTS, "", parameters)
        return report_of(pb_utils.infer(self._model, request)[0])


def make_request(
    scenario: str, inputs: Any = (), outputs: Any = OUTPUTS, request_id: str = ""
) -> pb_utils.InferenceRequest:
    return pb_utils.InferenceRequest({"scenario": text_input(scenario), **dict(inputs)}, outputs, request_id)


def text_input(text: str) -> Any:
    return np.array([[text.encode()]], np.object_)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def report_of(answer: Answer) -> Any:
    assert answer.error is None, answer.error
    return json.loads(answer.outputs["report"][0, 0])


def plain(answer: Answer) -> Any:
    """The answer in a form that can be compared; a report as its content."""
    outputs = {
        name: (str(array.dtype), array.shape, array.tolist())
        for name, array in answer.outputs.items()
        if not (name == "report" and array[0, 0].startswith(b"{"))
    }
    report = report_of(answer) if answer.error is None and len(outputs) < len(answer.outputs) else None
    return outputs, report, answer.error, answer.status


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with TritonServer(model_repository=MODELS, readiness_model=NAME) as server:
        yield Live(server)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[StandIn]:
    monkeypatch.syspath_prepend(MODEL_DIR)
    with pb_utils.installed("model") as (module,):
        model = module.TritonPythonModel()
        model.initialize({})
        yield StandIn(model, lambda: capsys.readouterr().err)


CALLS = {
    "the parts of a request": ("request", INPUTS, ("report", "texts"), "r-1"),
    "a request without an id": ("request", {"texts": INPUTS["texts"], "switches": np.array([[True, False]])}),
    "a request without parameters": ("parameters",),
    "the module's names and responses": ("module",),
    "output tensors": ("outputs",),
    "outputs that were not requested": ("outputs", (), ("int32s",)),
    "empty output tensors": ("empty",),
    "requested outputs that are missing": ("shared",),
    "a sender that is not used": ("sender_unused",),
    **{f"the error {status}": (f"error {status}",) for status in pb_utils.STATUSES},
}


@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS.keys())
def test_a_response_from_execute(live, stand_in, arguments):
    assert plain(stand_in.call(*arguments)) == plain(live.call(*arguments))


LATER_CALLS = {
    "a report": ("later",),
    "outputs that were not requested": ("later_outputs", (), ("int32s",)),
    **{f"the error {status}": (f"later_error {status}",) for status in pb_utils.STATUSES},
}


@pytest.mark.parametrize("arguments", LATER_CALLS.values(), ids=LATER_CALLS.keys())
def test_a_response_through_the_sender_is_sent_once(live, stand_in, arguments):
    assert plain(stand_in.call(*arguments)) == plain(live.call(*arguments))
    seen = report_of(live.call("recall"))
    assert seen["second_send"][1].startswith("Unable to send response.")
    assert report_of(stand_in.call("recall")) == seen


def test_one_tensor_serves_several_responses(live, stand_in):
    for side in (live, stand_in):
        assert [side.call("shared").outputs["texts"].tolist() for _ in range(3)] == [[[b"shared"]]] * 3


def test_an_error_of_one_request_does_not_affect_the_others_of_its_batch(live, stand_in):
    calls = [{"scenario": "batch", "request_id": request_id} for request_id in ("good", "bad", "fine")]
    answers = [plain(answer) for answer in live.call_batch(*calls)]
    assert answers == [plain(answer) for answer in stand_in.call_batch(*calls)]
    assert answers[0][1] == {"batch_size": 3}


def test_the_sender_sees_the_clients_cancellation(live, stand_in):
    for side in (live, stand_in):
        started = side.start("cancellation")
        wait_until(partial(has_started, side))
        side.cancel(started)
        assert report_of(side.call("recall")) == {"before": False, "after": True}


def has_started(side: Any) -> bool:
    return "before" in report_of(side.call("progress"))


@pytest.mark.parametrize("value", [b"acme", "café".encode(), b"\xff"], ids=["ASCII", "UTF-8", "not UTF-8"])
def test_a_header_is_a_parameter(live, stand_in, value):
    assert stand_in.call_with_header(value) == live.call_with_header(value)


def test_an_error_is_logged(live, stand_in):
    for side in (live, stand_in):
        side.call("log something happened")
        assert '"something happened"' in side.read_log()


def test_an_exception_that_leaves_execute_fails_the_whole_batch_and_shows_a_path(live):
    """The reason why the models catch every exception. The stand-in passes the exception on to the test."""
    calls = [{"scenario": "batch"}, {"scenario": "fail"}]
    answers = live.call_batch(*calls)
    assert [answer.status for answer in answers] == ["INTERNAL", "INTERNAL"]
    assert all("ZeroDivisionError: a detail" in (answer.error or "") for answer in answers)
    assert all(str(MODEL_DIR) in (answer.error or "") for answer in answers)
