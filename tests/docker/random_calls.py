"""Random gRPC requests for the gateway's guard, and a second statement of what it allows in them."""

from __future__ import annotations

import random

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from tests.docker.body_oracle import HEADERS, PASSED_THROUGH, SETTLED, STREAMED, TYPES, Refused, check_output_names

MODELS = {"ModelInfer": ["ensemble"], "ModelStreamInfer": ["ensemble", "ensemble_stream"]}
ALLOWED_PARAMETERS = {"timeout": "int64_param", "triton_enable_empty_final_response": "bool_param"}
FIELDS = {"BYTES": "bytes_contents", "INT32": "int_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents"}
FIELDS["BOOL"] = "bool_contents"
VALUES = {"BYTES": b"hello", "INT32": 4, "UINT64": 2**64 - 1, "FP32": 0.5, "BOOL": True}


def valid_request(source: random.Random, method: str = "ModelInfer") -> pb.ModelInferRequest:
    """A request that the guard must allow as a message of this method."""
    request = pb.ModelInferRequest(model_name=source.choice(MODELS[method]), id=source.choice(("", "request 7")))
    for name in ["text_input", *source.sample(sorted(TYPES.keys() - {"text_input"}), source.randrange(4))]:
        num_rows = source.choice((1, 1, 4))
        tensor = request.inputs.add(name=name, datatype=TYPES[name], shape=[num_rows, 1])
        if source.random() < 0.5:
            getattr(tensor.contents, FIELDS[TYPES[name]]).extend([VALUES[TYPES[name]]] * num_rows)
        else:
            request.raw_input_contents.append(source.randbytes(source.randrange(40)))
    if source.random() < 0.4:
        others = PASSED_THROUGH if request.model_name == "ensemble" else STREAMED
        names = [source.choice(sorted(SETTLED)), *source.sample(sorted(others), source.randrange(3))]
        for name in names:
            request.outputs.add(name=name)
    if source.random() < 0.3:
        request.parameters["timeout"].int64_param = source.choice((0, 5_000_000, 2**53))
    if source.random() < 0.3:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def changed_message(source: random.Random, method: str) -> bytes:
    """The bytes of a request with something changed: a field that is not allowed, or bytes."""
    request = valid_request(source, method)
    for _ in range(source.randrange(3)):
        source.choice(CHANGES)(source, request)
    message = bytearray(request.SerializeToString())
    for _ in range(source.choice((0, 0, 1, 2))):
        start = source.randrange(len(message))
        kind = source.randrange(4)
        if kind == 0:
            del message[start]
        elif kind == 1:
            message.insert(start, source.randrange(256))
        elif kind == 2:
            message[start] = source.randrange(256)
        else:
            message += source.choice(APPENDED)
    return bytes(message)


# Fields of a request as protobuf merges them after those that are there.
APPENDED = (
    b"\x0a\x08ensemble",
    b"\x0a\x0fensemble_stream",
    b"\x0a\x0ctensorrt_llm",
    b"\x12\x011",
    b"\x12\x00",
    b"\x1a\x01x",
    b"\x32\x0d\x0a\x0btext_output",
    b"\x32\x13\x0a\x11num_output_tokens",
    b"\x2a\x00",
    b"\x32\x00",
    b"\x22\x00",
    b"\x22\x0f\x0a\x0bsequence_id\x12\x00",
    b"\x3a\x00",
    b"\x42\x01x",
    b"\x08\x01",
)


def _add_parameter(source: random.Random, request: pb.ModelInferRequest) -> None:
    names = ["sequence_id", "priority", "foo", "", "timeout", *HEADERS, "X-Tenant", *ALLOWED_PARAMETERS]
    place = source.choice([request, *request.inputs, *request.outputs])
    parameter = place.parameters[source.choice(names)]
    number = source.choice((1, -1, 2**60))
    values = {"bool_param": True, "int64_param": number, "string_param": "x", "double_param": 1.0}
    kind, value = source.choice(list(values.items()))
    setattr(parameter, kind, value)


def _classify(source: random.Random, request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="text_output").parameters["classification"].int64_param = source.randrange(3)


def _add_output(source: random.Random, request: pb.ModelInferRequest) -> None:
    request.outputs.add(name=source.choice(["num_output_tokens", "text_output", "is_last", "_input_ids", ""]))


def _change_model(source: random.Random, request: pb.ModelInferRequest) -> None:
    request.model_name = source.choice(["ensemble", "ensemble_stream", "ensemble_stream2", "postprocess"])


def _change_input(source: random.Random, request: pb.ModelInferRequest) -> None:
    tensor = source.choice(list(request.inputs))
    kind = source.randrange(3)
    if kind == 0:
        tensor.name = source.choice(["input_ids", "", *TYPES])
    elif kind == 1:
        tensor.datatype = source.choice(["INT64", "", "FP16", *FIELDS])
    else:
        del tensor.shape[:]
        tensor.shape.extend(source.choices([0, 1, 1, 4, -1, 2**31, 2**63 - 1, -(2**63)], k=source.randrange(6)))


def _change_contents(source: random.Random, request: pb.ModelInferRequest) -> None:
    contents = source.choice(list(request.inputs)).contents
    field = source.choice([*FIELDS.values(), "int64_contents", "uint_contents", "fp64_contents"])
    getattr(contents, field).extend([b"x"] if field == "bytes_contents" else [1])


CHANGES = (_add_parameter, _classify, _add_output, _change_model, _change_input, _change_contents)


def fault(message: bytes, method: str) -> str:
    """Why no server may get this message of a call, by protobuf's own reader; empty when it may."""
    try:
        request = pb.ModelInferRequest.FromString(message)
    except (DecodeError, UnicodeDecodeError):
        return ""
    try:
        _check(request, MODELS[method])
    except Refused as reason:
        return str(reason)
    return ""


def _check(request: pb.ModelInferRequest, models: list[str]) -> None:
    if request.model_name not in models or request.model_version:
        raise Refused("another model")
    if "\0" in request.id:
        raise Refused("a null character")
    check_output_names([each.name for each in request.outputs], request.model_name)
    if any(each.parameters for each in (*request.inputs, *request.outputs)):
        raise Refused("parameters of a tensor")
    for name, value in request.parameters.items():
        if value.WhichOneof("parameter_choice") != ALLOWED_PARAMETERS.get(name, "none"):
            raise Refused("another parameter")
    if not 0 <= request.parameters["timeout"].int64_param <= 2**53:
        raise Refused("another timeout")
    names = [each.name for each in request.inputs]
    if len(set(names)) != len(names) or any(TYPES.get(each.name) != each.datatype for each in request.inputs):
        raise Refused("another input")
    for each in request.inputs:
        if len(each.shape) > 4 or any(not 0 <= size <= 65_536 for size in each.shape) or 0 in each.shape[:1]:
            raise Refused("another shape")
        contents = each.contents
        if contents.int64_contents or contents.uint_contents or contents.fp64_contents:
            raise Refused("contents of another type")
