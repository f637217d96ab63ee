"""The guard's reader compared with protobuf: every message that it forwards names the ensemble, however it is split."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.docker.guard_readers import ALLOWED, Checked, GuardReaders, guard_readers
from tests.docker.random_calls import MODELS, changed_message, fault, valid_request
from tests.hypothesis_profiles import num_examples
from tests.soak import IS_SOAK
from tests.survivors import check_survivors, keep_if, keeps_at_least

MAX_BYTES = 20_000
NUM_CALLS = 250_000 if IS_SOAK else 20_000
INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 7, 8, 12


Check = Callable[..., Checked]


@pytest.fixture(scope="module")
def readers() -> Iterator[GuardReaders]:
    with guard_readers() as running:
        yield running


@pytest.fixture(scope="module")
def check(readers: GuardReaders) -> Check:
    """Feeds one call to the guard: a method, and its bytes in pieces."""
    return lambda method, *pieces: readers.check_call(method, MAX_BYTES, *pieces)


def frame(message: bytes, flag: int = 0, size: int | None = None) -> bytes:
    return bytes([flag]) + (len(message) if size is None else size).to_bytes(4, "big") + message


def infer_message(model: str = "ensemble", text: bytes = b"hello", **fields: str) -> bytes:
    request = pb.ModelInferRequest(model_name=model, id="1", **fields)
    request.parameters["timeout"].int64_param = 5
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="text_output")
    request.raw_input_contents.append(text)
    return request.SerializeToString()


def name_field(model: bytes) -> bytes:
    return b"\x0a" + bytes([len(model)]) + model


def split(call: bytes, positions: list[int]) -> list[bytes]:
    bounds = sorted({min(position, len(call)) for position in positions} | {0, len(call)})
    return [call[start:end] for start, end in itertools.pairwise(bounds)]


def messages_of(call: bytes) -> list[bytes]:
    """The complete messages at the start of `call`, without their gRPC frames."""
    messages, start = [], 0
    while len(call) - start >= 5 and len(call) - start - 5 >= (
        size := int.from_bytes(call[start + 1 : start + 5], "big")
    ):
        messages.append(call[start + 5 : start + 5 + size])
        start += 5 + size
    return messages


def model_of(message: bytes) -> tuple[str, str] | None:
    """The model's name and version as protobuf parses them; None when it can't."""
    try:
        request = pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return None
    return request.model_name, request.model_version


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_calls_to_the_ensemble_are_allowed(check, method):
    assert check(method, frame(infer_message())) == ALLOWED


@pytest.mark.parametrize("num_messages", [0, 2, 5])
def test_a_stream_may_have_any_number_of_messages(check, num_messages):
    assert check("ModelStreamInfer", frame(infer_message()) * num_messages) == ALLOWED


def test_a_stream_may_call_both_models(check):
    call = frame(infer_message()) + frame(infer_message("ensemble_stream"))
    assert check("ModelStreamInfer", call) == ALLOWED


def test_the_streaming_model_may_be_called_by_streams_only(check):
    checked = check("ModelInfer", frame(infer_message("ensemble_stream")))
    assert (checked.status, checked.reason) == (PERMISSION_DENIED, "only the model ensemble may be called")


@pytest.mark.parametrize("model", ["ensemble_strea", "ensemble_streams", "ensemble_stream\0", "Ensemble_stream"])
def test_a_stream_may_call_no_other_model(check, model):
    checked = check("ModelStreamInfer", frame(infer_message(model)))
    assert checked.status == PERMISSION_DENIED
    assert checked.reason == "only the models ensemble and ensemble_stream may be called"


def test_only_the_streaming_model_has_the_output_is_last(check):
    last = b"\x32\x09\x0a\x07is_last"
    assert check("ModelStreamInfer", frame(infer_message("ensemble_stream") + last)) == ALLOWED
    for call in (frame(infer_message() + last), frame(last + infer_message())):
        checked = check("ModelStreamInfer", call)
        assert (checked.status, checked.reason) == (INVALID_ARGUMENT, "output is_last is not allowed")
        assert checked.num_forwarded < len(call)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_readiness_and_metadata_are_allowed_for_the_ensemble_and_the_streaming_model_only(check, method):
    assert check(method, frame(name_field(b"ensemble"))) == ALLOWED
    assert check(method, frame(name_field(b"ensemble_stream"))) == ALLOWED
    assert check(method, frame(name_field(b"preproce"))).status == PERMISSION_DENIED
    assert check(method, frame(b"")).status == PERMISSION_DENIED


def test_the_servers_health_calls_are_allowed_without_fields(check):
    assert check("ServerLive", frame(b"")) == ALLOWED
    assert check("ServerReady", frame(b"")) == ALLOWED
    assert check("ServerReady", frame(name_field(b"ensemble"))).status == PERMISSION_DENIED


UNNAMED = infer_message().removeprefix(name_field(b"ensemble"))
HOSTILE = {
    "another model": (PERMISSION_DENIED, frame(infer_message("tensorrt_llm"))),
    "another model of the same length": (PERMISSION_DENIED, frame(infer_message("preproce"))),
    "another letter case": (PERMISSION_DENIED, frame(infer_message("Ensemble"))),
    "a name that ends in a null byte": (PERMISSION_DENIED, frame(infer_message("ensemble\0"))),
    "no model": (PERMISSION_DENIED, frame(UNNAMED)),
    "an empty message": (PERMISSION_DENIED, frame(b"")),
    "a version": (PERMISSION_DENIED, frame(infer_message(model_version="1"))),
    "the model twice, another one last": (PERMISSION_DENIED, frame(infer_message() + name_field(b"tensorrt_llm"))),
    "the model twice, another one first": (PERMISSION_DENIED, frame(name_field(b"tensorrt_llm") + infer_message())),
    "the model twice, both right": (PERMISSION_DENIED, frame(infer_message() + name_field(b"ensemble"))),
    "another model after all other fields": (PERMISSION_DENIED, frame(UNNAMED + name_field(b"tensorrt_llm"))),
    "the name's tag in a longer encoding": (
        PERMISSION_DENIED,
        frame(infer_message() + b"\x8a\x00" + name_field(b"tensorrt_llm")[1:]),
    ),
    "the name in a group": (
        PERMISSION_DENIED,
        frame(infer_message() + b"\x0b" + name_field(b"tensorrt_llm") + b"\x0c"),
    ),
    "the name as a number": (PERMISSION_DENIED, frame(infer_message() + b"\x08\x01")),
    "an unknown field first": (PERMISSION_DENIED, frame(b"\x7a\x01x" + infer_message("tensorrt_llm"))),
    "an unknown field last": (PERMISSION_DENIED, frame(infer_message() + b"\x42\x01x")),
    "a length in a longer encoding": (INVALID_ARGUMENT, frame(b"\x0a\x88\x00ensemble")),
    "a length of ten bytes": (INVALID_ARGUMENT, frame(infer_message() + b"\x1a" + b"\xff" * 9 + b"\x01")),
    "a field longer than its message": (INVALID_ARGUMENT, frame(name_field(b"ensemble") + b"\x1a\x7f")),
    "a name that continues in the next message": (INVALID_ARGUMENT, frame(b"\x0a\x08ense") + b"mble"),
    "a compressed message": (UNIMPLEMENTED, frame(infer_message(), flag=1)),
    "an unknown flag": (UNIMPLEMENTED, frame(infer_message(), flag=2)),
    "too long": (RESOURCE_EXHAUSTED, frame(infer_message(text=b"x" * MAX_BYTES))),
    "a length prefix of 4 GiB": (RESOURCE_EXHAUSTED, frame(infer_message(), size=2**32 - 1)),
    "a length prefix that is too large": (INVALID_ARGUMENT, frame(infer_message(), size=len(infer_message()) + 1)),
    "a length prefix that is too small": (INVALID_ARGUMENT, frame(infer_message(), size=len(infer_message()) - 1)),
    "no message": (INVALID_ARGUMENT, b""),
    "half a prefix": (INVALID_ARGUMENT, b"\0\0\0"),
    "an empty frame first": (PERMISSION_DENIED, frame(b"") + frame(infer_message("tensorrt_llm"))),
    "two messages": (INVALID_ARGUMENT, frame(infer_message()) + frame(infer_message("tensorrt_llm"))),
    "two thousand fields": (INVALID_ARGUMENT, frame(infer_message() + b"\x3a\x00" * 2_048)),
}


def request(change: Callable[[pb.ModelInferRequest], object]) -> bytes:
    """A call whose request was changed."""
    changed = pb.ModelInferRequest.FromString(infer_message())
    change(changed)
    return frame(changed.SerializeToString())


def with_max_tokens(packed: bytes) -> bytes:
    """A call whose int_contents are these bytes: protobuf's own writer does not write numbers that wrap."""
    contents = b"\x12" + bytes([len(packed)]) + packed
    tensor = b"\x0a\x0amax_tokens\x12\x05INT32\x1a\x02\x01\x01\x2a" + bytes([len(contents)]) + contents
    return frame(infer_message() + b"\x2a" + bytes([len(tensor)]) + tensor)


def set_parameter(place: str, name: str, **value: object) -> bytes:
    """A call with this parameter of the request, its first input or its first output."""

    def change(changed: pb.ModelInferRequest) -> None:
        owner = changed if place == "request" else getattr(changed, place)[0]
        for kind, content in value.items():
            setattr(owner.parameters[name], kind, content)

    return request(change)


MINUS = b"\xff\xff\xff\xff\x01"  # the end of a negative number of ten bytes
TIMEOUT_KEY = b"\x0a\x07timeout"
REFUSED = {
    "the classification of an output": ("field tag 18", set_parameter("outputs", "classification", int64_param=5)),
    "shared memory of an output": ("field tag 18", set_parameter("outputs", "shared_memory_region", string_param="x")),
    "shared memory of an input": ("field tag 34", set_parameter("inputs", "shared_memory_region", string_param="x")),
    "an output of the engine alone": (
        "add text_output",
        request(lambda changed: setattr(changed.outputs[0], "name", "num_output_tokens")),
    ),
    "an unknown output": (
        "output _input_ids is not allowed",
        request(lambda changed: changed.outputs.add(name="_input_ids")),
    ),
    "an output twice": ("asked for twice", request(lambda changed: changed.outputs.add(name="text_output"))),
    "an unknown input": ("a name that is not allowed", request(lambda changed: changed.inputs.add(name="input_ids"))),
    "an input twice": (
        "input text_input is given twice",
        request(lambda changed: changed.inputs.add(name="text_input", datatype="BYTES")),
    ),
    "another data type": (
        "must have the type BYTES",
        request(lambda changed: setattr(changed.inputs[0], "datatype", "INT32")),
    ),
    "a negative dimension": ("out of range", request(lambda changed: changed.inputs[0].shape.append(-1))),
    "the largest shape": ("out of range", request(lambda changed: changed.inputs[0].shape.append(2**63 - 1))),
    "no rows": ("the number of rows", request(lambda changed: changed.inputs[0].shape.__setitem__(0, 0))),
    "five dimensions": ("malformed", request(lambda changed: changed.inputs[0].shape.extend([1] * 3))),
    "contents of another type": (
        "field tag 26",
        request(lambda changed: changed.inputs[0].contents.int64_contents.append(4)),
    ),
    "a number that wraps": ("the range of INT32", with_max_tokens(b"\x84\x80\x80\x80\x10")),
    "a negative number that wraps": (
        "the range of INT32",
        with_max_tokens(b"\x84\x80\x80\x80\xf0\xff\xff\xff\xff\x01"),
    ),
    "a number without an end": ("malformed", with_max_tokens(b"\x84\x80")),
    "a sequence": ("a parameter is not allowed", set_parameter("request", "sequence_id", int64_param=5)),
    "a header as a parameter": ("as metadata", set_parameter("request", "X-Engine-Hash", string_param="x")),
    "a negative timeout": ("timeout is out of range", set_parameter("request", "timeout", int64_param=-1)),
    "a timeout as text": ("is malformed", set_parameter("request", "timeout", string_param="5")),
    "a parameter twice": ("given twice", frame(infer_message() + b"\x22\x0d\x0a\x07timeout\x12\x02\x10\x05")),
    "the value of a parameter first": (
        "malformed",
        frame(infer_message() + b"\x22\x0d\x12\x02\x10\x05\x0a\x07timeout"),
    ),
    "a null character in the id": ("null character", request(lambda changed: setattr(changed, "id", "a\0b"))),
    "an id of a megabyte": ("more than 1024 bytes", request(lambda changed: setattr(changed, "id", "a" * 2_000))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_ensemble_does_not_need_is_refused_before_the_messages_end(check, case):
    reason, call = REFUSED[case]
    for pieces in ([call], [bytes([byte]) for byte in call]):
        checked = check("ModelInfer", *pieces)
        assert checked.status in (INVALID_ARGUMENT, PERMISSION_DENIED)
        assert reason in checked.reason
        assert checked.num_forwarded < len(call)


@pytest.mark.parametrize(
    "packed", [b"\x04", b"\xff\xff\xff\xff\x07", b"\x80\x80\x80\x80\xf8\xff\xff\xff\xff\x01", b"\0" * 8]
)
def test_numbers_of_int32_are_allowed(check, packed):
    assert check("ModelInfer", with_max_tokens(packed)) == ALLOWED


def test_random_requests_of_the_ensemble_are_allowed(check):
    source = random.Random(5)
    for _ in range(NUM_CALLS // 10):
        call = frame(valid_request(source, "ModelStreamInfer").SerializeToString())
        assert check("ModelStreamInfer", *split(call, source.choices(range(len(call)), k=3))) == ALLOWED


def test_random_requests_that_no_server_may_get_are_refused(check):
    source = random.Random(20_261_128)
    num_allowed = num_faults = 0
    for _ in range(NUM_CALLS):
        method = source.choice(sorted(MODELS))
        message = changed_message(source, method)
        call = frame(message)
        allowed = check(method, *split(call, source.choices(range(len(call)), k=source.randrange(4)))) == ALLOWED
        reason = fault(message, method)
        assert not (allowed and reason), (message, reason)
        num_allowed += allowed
        num_faults += bool(reason)
    check_survivors(num_allowed, NUM_CALLS, 0.1)
    check_survivors(num_faults, NUM_CALLS, 0.2)


@pytest.mark.parametrize("case", HOSTILE)
def test_an_invalid_call_is_rejected_whole_and_byte_by_byte(check, case):
    status, call = HOSTILE[case]
    assert check("ModelInfer", call).status == status
    assert check("ModelInfer", *(bytes([byte]) for byte in call)).status == status


def test_a_later_message_of_a_stream_is_checked_like_the_first(check):
    checked = check("ModelStreamInfer", frame(infer_message()) * 3, frame(infer_message("tensorrt_llm")))
    assert (checked.status, checked.num_forwarded) == (PERMISSION_DENIED, 3 * len(frame(infer_message())))


@pytest.mark.parametrize(
    "method", ["ModelConfig", "RepositoryModelLoad", "SystemSharedMemoryRegister", "modelinfer", ""]
)
def test_another_method_is_rejected(check, method):
    assert check(method or "x", frame(infer_message())).status == UNIMPLEMENTED


# Fields that protobuf may parse as model names, valid and malformed.
NAMES = st.sampled_from([b"ensemble", b"ensemble_stream", b"ensembl3", b"tensorrt_llm", b""])
FIELDS = st.one_of(
    NAMES.map(name_field),
    st.sampled_from(
        [b"\x0a\x88\x00ensemble", b"\x8a\x00\x08ensemble", b"\x12\x011", b"\x12\x00", b"\x08\x01", b"\x0b\x0c"]
    ),
    st.binary(max_size=6).map(lambda value: b"\x1a" + bytes([len(value)]) + value),
    st.just(UNNAMED),
    st.binary(max_size=8),
)
MESSAGES = st.lists(FIELDS, max_size=5).map(b"".join)
VALID = st.builds(infer_message, text=st.binary(max_size=40))
EXTENDED = st.builds(bytes.__add__, VALID, MESSAGES)
CALLS = st.lists((VALID | EXTENDED | MESSAGES).map(frame) | st.binary(max_size=12), min_size=1, max_size=3).map(
    b"".join
)
IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
POSITIONS = st.lists(st.integers(0, 200), max_size=6)
PROPERTY_SETTINGS = settings(
    max_examples=num_examples(400), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@keeps_at_least(0.1)
@PROPERTY_SETTINGS
@given(call=CALLS, positions=POSITIONS)
def test_protobuf_reads_the_name_of_an_allowed_model_in_every_forwarded_message(check, call, positions):
    checked = check("ModelStreamInfer", *split(call, positions))
    forwarded = call if checked == ALLOWED else call[: checked.num_forwarded]
    keep_if(messages_of(forwarded))
    for message in messages_of(forwarded):
        assert model_of(message) in {("ensemble", ""), ("ensemble_stream", ""), None}


@PROPERTY_SETTINGS
@given(call=CALLS, positions=POSITIONS)
def test_the_result_does_not_depend_on_how_a_call_is_split(check, call, positions):
    whole, in_pieces = check("ModelInfer", call), check("ModelInfer", *split(call, positions))
    assert (whole.status, whole.reason) == (in_pieces.status, in_pieces.reason)


@PROPERTY_SETTINGS
@given(
    text=st.binary(max_size=500),
    request_id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    positions=POSITIONS,
)
def test_every_valid_request_to_the_ensemble_is_allowed(check, text, request_id, positions):
    request = pb.ModelInferRequest.FromString(infer_message(text=text))
    request.id = request_id
    assert check("ModelInfer", *split(frame(request.SerializeToString()), positions)) == ALLOWED


def answer(is_last: bool | None, error: str = "", request_id: str = "", num_bytes: int = 20) -> bytes:
    """A message of a server on a stream. `is_last` None: it is about a request that reached no model."""
    message = pb.ModelStreamInferResponse(error_message=error)
    if is_last is not None:
        response = message.infer_response
        response.model_name, response.model_version, response.id = "ensemble_stream", "1", request_id
        response.parameters["sequence_end"].bool_param = False
        response.parameters["triton_final_response"].bool_param = is_last
        response.outputs.add(name="text_output", datatype="BYTES", shape=[1, 1])
        response.raw_output_contents.append(b"x" * num_bytes)
    return frame(message.SerializeToString())


NOT_LAST_AS_TEXT = "\x15triton_final_response\x12\x02\x08\x00"


@pytest.mark.parametrize(
    ("messages", "num_answers"),
    [
        ([answer(False)] * 3, 0),
        ([answer(False), answer(False), answer(True)], 1),
        ([answer(False, num_bytes=40_000), answer(True), answer(True, num_bytes=40_000), answer(False)], 2),
        ([answer(None, error="batch size does not match")], 1),
        ([answer(True, error="missing_header")], 1),
        ([answer(False), answer(True, error="engine_unavailable")], 1),
        ([answer(True, request_id="\n" + NOT_LAST_AS_TEXT)], 1),
        ([answer(False, request_id="\n" + NOT_LAST_AS_TEXT.replace("\0", "\1"))], 0),
        ([answer(None, error='"\x1b\n' + NOT_LAST_AS_TEXT)], 1),
        ([frame(b"\x0a\xff\xff\xff\xff\x01"), answer(True)], 1),
        ([frame(b"\x0a\x7fx"), answer(True)], 2),
        ([frame(b"compressed", flag=1), answer(True)], 1),
    ],
)
def test_a_request_of_a_stream_is_answered_by_its_last_message(readers, messages, num_answers):
    stream = b"".join(messages)
    assert sum(readers.count_answers(stream)) == num_answers
    assert sum(readers.count_answers(*(bytes([byte]) for byte in stream[:200]), stream[200:])) == num_answers


def test_an_answer_ends_with_the_last_byte_of_its_last_message(readers):
    last = answer(True)
    assert readers.count_answers(answer(False), last[:-1], last[-1:] + answer(False), last) == [0, 0, 1, 1]


@PROPERTY_SETTINGS
@given(kinds=st.lists(st.sampled_from([True, False, None]), max_size=6), positions=POSITIONS)
def test_the_number_of_answers_does_not_depend_on_how_a_stream_is_split(readers, kinds, positions):
    stream = b"".join(answer(kind, error="" if kind is False else "an error") for kind in kinds)
    assert sum(readers.count_answers(*split(stream, positions))) == sum(kind is not False for kind in kinds)
