"""The guard's reader against protobuf's own: what it lets through names the ensemble, in whatever pieces it came."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

import llmstack.gateway
from tests.docker.conftest import need

GUARD = Path(llmstack.gateway.__file__).with_name("grpc_guard.lua")
MAX_BYTES = 10_000
INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 7, 8, 12


class Verdict(NamedTuple):
    status: int
    num_handed_on: int = 0
    reason: str = ""


PASS = Verdict(0)
Judge = Callable[..., Verdict]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Asks the guard about one call: a method, and the bytes in pieces."""
    need("lua5.3")
    command = ["lua5.3", str(Path(__file__).with_name("read_calls.lua")), str(GUARD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as lua:

        def ask(method: str, *pieces: bytes) -> Verdict:
            print(method, MAX_BYTES, ",".join(piece.hex() for piece in pieces if piece), file=lua.stdin, flush=True)
            words = lua.stdout.readline().strip().split(" ", 3)
            return PASS if words == ["pass"] else Verdict(int(words[1]), int(words[2]), words[3])

        yield ask
        lua.stdin.close()


def frame(message: bytes, flag: int = 0, size: int | None = None) -> bytes:
    return bytes([flag]) + (len(message) if size is None else size).to_bytes(4, "big") + message


def infer(model: str = "ensemble", text: bytes = b"hello", **fields: str) -> bytes:
    request = pb.ModelInferRequest(model_name=model, id="1", **fields)
    request.parameters["x-tenant"].string_param = "t"
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="text_output")
    request.raw_input_contents.append(text)
    return request.SerializeToString()


def name(model: bytes) -> bytes:
    return b"\x0a" + bytes([len(model)]) + model


def cut(call: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({min(place, len(call)) for place in places} | {0, len(call)})
    return [call[start:end] for start, end in itertools.pairwise(marks)]


def messages_of(call: bytes) -> list[bytes]:
    """The whole messages at the start of `call`, framed as gRPC does."""
    found, at = [], 0
    while len(call) - at >= 5 and len(call) - at - 5 >= (size := int.from_bytes(call[at + 1 : at + 5], "big")):
        found.append(call[at + 5 : at + 5 + size])
        at += 5 + size
    return found


def model_of(message: bytes) -> tuple[str, str] | None:
    """What protobuf reads: the model's name and version; nothing where it can't read."""
    try:
        request = pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return None
    return request.model_name, request.model_version


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_the_ensemble_may_be_asked(judge, method):
    assert judge(method, frame(infer())) == PASS


@pytest.mark.parametrize("num_messages", [0, 2, 5])
def test_a_stream_has_any_number_of_messages(judge, num_messages):
    assert judge("ModelStreamInfer", frame(infer()) * num_messages) == PASS


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_questions_about_the_ensemble_may_pass_and_about_others_not(judge, method):
    assert judge(method, frame(name(b"ensemble"))) == PASS
    assert judge(method, frame(name(b"preproce"))).status == PERMISSION_DENIED
    assert judge(method, frame(b"")).status == PERMISSION_DENIED


def test_the_server_may_be_asked_whether_it_lives(judge):
    assert judge("ServerLive", frame(b"")) == PASS
    assert judge("ServerReady", frame(b"")) == PASS
    assert judge("ServerReady", frame(name(b"ensemble"))).status == PERMISSION_DENIED


OTHERS = infer().removeprefix(name(b"ensemble"))
HOSTILE = {
    "another model": (PERMISSION_DENIED, frame(infer("tensorrt_llm"))),
    "another model of the same length": (PERMISSION_DENIED, frame(infer("preproce"))),
    "another case": (PERMISSION_DENIED, frame(infer("Ensemble"))),
    "a name that ends in a null byte": (PERMISSION_DENIED, frame(infer("ensemble\0"))),
    "no model": (PERMISSION_DENIED, frame(OTHERS)),
    "an empty message": (PERMISSION_DENIED, frame(b"")),
    "a version": (PERMISSION_DENIED, frame(infer(model_version="1"))),
    "the model twice, another one last": (PERMISSION_DENIED, frame(infer() + name(b"tensorrt_llm"))),
    "the model twice, another one first": (PERMISSION_DENIED, frame(name(b"tensorrt_llm") + infer())),
    "the model twice, both right": (PERMISSION_DENIED, frame(infer() + name(b"ensemble"))),
    "another model behind everything else": (PERMISSION_DENIED, frame(OTHERS + name(b"tensorrt_llm"))),
    "the name's tag written longer": (PERMISSION_DENIED, frame(infer() + b"\x8a\x00" + name(b"tensorrt_llm")[1:])),
    "the name in a group": (PERMISSION_DENIED, frame(infer() + b"\x0b" + name(b"tensorrt_llm") + b"\x0c")),
    "the name as a number": (PERMISSION_DENIED, frame(infer() + b"\x08\x01")),
    "an unknown field first": (PERMISSION_DENIED, frame(b"\x7a\x01x" + infer("tensorrt_llm"))),
    "an unknown field last": (PERMISSION_DENIED, frame(infer() + b"\x42\x01x")),
    "a length written longer": (INVALID_ARGUMENT, frame(b"\x0a\x88\x00ensemble")),
    "a length of ten bytes": (INVALID_ARGUMENT, frame(infer() + b"\x1a" + b"\xff" * 9 + b"\x01")),
    "a field longer than its message": (INVALID_ARGUMENT, frame(name(b"ensemble") + b"\x1a\x7f")),
    "a name that reaches into the next message": (INVALID_ARGUMENT, frame(b"\x0a\x08ense") + b"mble"),
    "a compressed message": (UNIMPLEMENTED, frame(infer(), flag=1)),
    "an unknown flag": (UNIMPLEMENTED, frame(infer(), flag=2)),
    "too long": (RESOURCE_EXHAUSTED, frame(infer(text=b"x" * MAX_BYTES))),
    "a length prefix of 4 GiB": (RESOURCE_EXHAUSTED, frame(infer(), size=2**32 - 1)),
    "a length prefix that is too large": (INVALID_ARGUMENT, frame(infer(), size=len(infer()) + 1)),
    "a length prefix that is too small": (INVALID_ARGUMENT, frame(infer(), size=len(infer()) - 1)),
    "no message": (INVALID_ARGUMENT, b""),
    "half a prefix": (INVALID_ARGUMENT, b"\0\0\0"),
    "an empty frame first": (PERMISSION_DENIED, frame(b"") + frame(infer("tensorrt_llm"))),
    "two messages": (INVALID_ARGUMENT, frame(infer()) + frame(infer("tensorrt_llm"))),
    "a thousand fields": (INVALID_ARGUMENT, frame(infer() + b"\x3a\x00" * 1_024)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_it_can_not_vouch_for_is_refused(judge, what):
    status, call = HOSTILE[what]
    assert judge("ModelInfer", call).status == status
    assert judge("ModelInfer", *(bytes([byte]) for byte in call)).status == status


def test_a_later_message_of_a_stream_is_read_like_the_first(judge):
    verdict = judge("ModelStreamInfer", frame(infer()) * 3, frame(infer("tensorrt_llm")))
    assert (verdict.status, verdict.num_handed_on) == (PERMISSION_DENIED, 3 * len(frame(infer())))


@pytest.mark.parametrize(
    "method", ["ModelConfig", "RepositoryModelLoad", "SystemSharedMemoryRegister", "modelinfer", ""]
)
def test_another_method_has_no_reader(judge, method):
    assert judge(method or "x", frame(infer())).status == UNIMPLEMENTED


# Pieces that protobuf may read as names, in any order and number, right and broken.
MODELS = st.sampled_from([b"ensemble", b"ensembl3", b"tensorrt_llm", b""])
FIELDS = st.one_of(
    MODELS.map(name),
    st.sampled_from(
        [b"\x0a\x88\x00ensemble", b"\x8a\x00\x08ensemble", b"\x12\x011", b"\x12\x00", b"\x08\x01", b"\x0b\x0c"]
    ),
    st.binary(max_size=6).map(lambda value: b"\x1a" + bytes([len(value)]) + value),
    st.just(OTHERS),
    st.binary(max_size=8),
)
MESSAGES = st.lists(FIELDS, max_size=5).map(b"".join)
CALLS = st.lists(MESSAGES.map(frame) | st.binary(max_size=12), min_size=1, max_size=3).map(b"".join)
PLACES = st.lists(st.integers(0, 200), max_size=6)
HOUSE = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


@HOUSE
@given(call=CALLS, places=PLACES)
def test_every_message_that_passes_names_the_ensemble_to_protobuf(judge, call, places):
    verdict = judge("ModelStreamInfer", *cut(call, places))
    handed_on = call if verdict == PASS else call[: verdict.num_handed_on]
    for message in messages_of(handed_on):
        assert model_of(message) in {("ensemble", ""), None}


@HOUSE
@given(call=CALLS, places=PLACES)
def test_the_pieces_in_which_a_call_comes_do_not_change_the_verdict(judge, call, places):
    whole, pieces = judge("ModelInfer", call), judge("ModelInfer", *cut(call, places))
    assert (whole.status, whole.reason) == (pieces.status, pieces.reason)


@HOUSE
@given(text=st.binary(max_size=500), request_id=st.text(max_size=20), places=PLACES)
def test_whatever_a_client_writes_to_the_ensemble_passes(judge, text, request_id, places):
    request = pb.ModelInferRequest.FromString(infer(text=text))
    request.id = request_id
    assert judge("ModelInfer", *cut(frame(request.SerializeToString()), places)) == PASS
