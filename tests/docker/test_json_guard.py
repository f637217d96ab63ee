"""The guard's reader of JSON bodies: what it refuses, and that another reader says the same about random bodies."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tests.docker.body_oracle import refusal
from tests.docker.guard_readers import ALLOWED, GuardReaders, guard_readers
from tests.docker.random_bodies import RandomBody, changed_body, pieces_of, valid_body
from tests.soak import IS_SOAK
from tests.survivors import check_survivors

NUM_BODIES = 250_000 if IS_SOAK else 20_000


@pytest.fixture(scope="module")
def readers() -> Iterator[GuardReaders]:
    with guard_readers() as running:
        yield running


def infer(*inputs: object, **members: object) -> dict[str, object]:
    return {"inputs": [text_input(), *inputs], **members}


def text_input(**members: object) -> dict[str, object]:
    return {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["hello"], **members}


def max_tokens(number: object, **members: object) -> dict[str, object]:
    return {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [number], **members}


def output(name: str = "text_output", **parameters: object) -> dict[str, object]:
    return {"name": name, **({"parameters": parameters} if parameters else {})}


def raw(body: dict[str, object], old: str, new: str) -> bytes:
    text = json.dumps(body)
    assert old in text
    return text.replace(old, new).encode()


DEEP = b"[" * 130_000
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
CHANGES = (b"", b"a", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b" ", b"\\u0061", b'"a":1,')
REFUSED = {
    "deep nesting in an unknown member": (b'{"a":' + DEEP, "member a is not allowed"),
    "deep nesting in the data": (b'{"inputs":[{"data":' + DEEP, "nested more than"),
    "deep nesting at once": (DEEP, "the body may not have the type array"),
    "the classification of an output": (infer(outputs=[output(classification=5)]), "member classification"),
    "a shared memory region of an output": (infer(outputs=[output(shared_memory_region="x")]), "shared_memory_region"),
    "a shared memory region of an input": (
        {"inputs": [text_input(parameters={"shared_memory_region": "x"})]},
        "shared_memory_region",
    ),
    "an output of the engine alone": (infer(outputs=[output("num_output_tokens")]), "add text_output"),
    "an unknown output": (infer(outputs=[output("_input_ids")]), "output _input_ids is not allowed"),
    "an output of the streaming model alone": (
        infer(outputs=[output(), output("is_last")]),
        "output is_last is not allowed",
    ),
    "an output twice": (infer(outputs=[output(), output()]), "asked for twice"),
    "an unknown input": (infer(max_tokens(4, name="input_ids")), "input input_ids is not allowed"),
    "an input twice": (infer(text_input()), "input text_input is given twice"),
    "a number that wraps": (infer(max_tokens(2**32 + 4)), "out of the range of INT32"),
    "a negative number that wraps": (infer(max_tokens(4 - 2**32)), "out of the range of INT32"),
    "a number before its type": (
        {"inputs": [text_input(), {"data": [2**32], **max_tokens(2**32)}]},
        "out of the range of INT32",
    ),
    "a number of a thousand digits": (raw(infer(max_tokens(4)), "[4]", "9" * 1_000), "a number is too long"),
    "an infinite number": (infer({**max_tokens(4), "name": "top_p", "datatype": "FP32", "data": [1e39]}), "FP32"),
    "no number": (raw(infer(max_tokens(4)), "[4]", "[NaN]"), "not JSON"),
    "another data type": (infer(max_tokens(4, datatype="INT64")), "max_tokens must have the type INT32"),
    "the largest shape": (infer(max_tokens(4, shape=[2**63 - 1, 1])), "out of range"),
    "a shape that wraps": (infer(max_tokens(4, shape=[2**32 + 1, 1])), "out of range"),
    "no rows": (infer(max_tokens(4, shape=[0, 1])), "the number of rows"),
    "a negative dimension": (infer(max_tokens(4, shape=[1, -1])), "out of range"),
    "a thousand dimensions": (infer(max_tokens(4, shape=[1] * 1_000)), "too many dimensions"),
    "a header among the parameters": (infer(parameters={"X-Engine-Hash": "x"}), "send x-engine-hash as a header"),
    "a sequence": (infer(parameters={"sequence_id": 5, "sequence_start": True}), "member sequence_id"),
    "a priority": (infer(parameters={"priority": 1}), "member priority"),
    "a negative timeout": (infer(parameters={"timeout": -1}), "timeout is out of range"),
    "a hundred thousand parameters": (infer(parameters={f"p{n}": n for n in range(100_000)}), "member p0"),
    "a name twice": (b'{"inputs":[],"inputs":[]}', "twice"),
    "an escape in a name": (raw(infer(), '"inputs"', '"\\u0069nputs"'), "has an escape"),
    "data after the document": (json.dumps(infer()).encode() + b"{}", "more than one JSON document"),
    "a null character after the document": (json.dumps(infer()).encode() + b"\0{}", "more than one JSON document"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(infer()).encode(), "not JSON"),
    "half a document": (json.dumps(infer()).encode()[:-1], "not JSON"),
    "nothing": (b"", "not JSON"),
    "binary data that is not there": (
        {"inputs": [{"name": "text_input", "parameters": {"binary_data_size": 9}, "datatype": "BYTES"}]},
        "binary_data_size",
    ),
}  # fmt: skip
REFUSED_BY_GENERATE = {
    "deep nesting": (b'{"text_input":' + DEEP, "nested more than"),
    "an unknown member": ({"text_input": "a", "sequence_id": 5}, "member sequence_id is not allowed"),
    "parameters of their own": ({"text_input": "a", "parameters": {"sequence_id": 5}}, "member parameters"),
    "an object": ({"text_input": {"a": 1}}, "may not have the type object"),
    "a number for a text": ({"text_input": 5}, "may not have the type number"),
    "a number that wraps": ({"text_input": "a", "max_tokens": 2**32 + 4}, "out of the range of INT32"),
    "a fraction": ({"text_input": "a", "max_tokens": 4.5}, "out of the range of INT32"),
    "a header twice": ({"X-Tenant": "a", "x-tenant": "b"}, "x-tenant is given twice"),
    "a null character in a header": ({"X-Tenant": "a\0b"}, "x-tenant has a null character"),
    "a number in a header": ({"X-Tenant": 5}, "may not have the type number"),
    "the canary's token": ({"X-Canary-Token": "x"}, "member X-Canary-Token is not allowed"),
    "a member twice": (b'{"text_input":"a","text_input":"b"}', "twice"),
    "an escape in a name": (b'{"\\u0074ext_input":"a"}', "has an escape"),
    "a long name": (b'{"' + b"a" * 100_000 + b'":1}', "name is too long"),
}  # fmt: skip


CHAT = {"model": "ensemble", "messages": [{"role": "user", "content": "hello"}]}
REFUSED_BY_OPENAI = {
    "deep nesting": (b'{"messages":' + DEEP, "nested more than 100 levels"),
    "deep nesting in an unknown member": (b'{"a":' * 101 + b"1" + b"}" * 101, "nested more than 100 levels"),
    "a member twice": (b'{"model":"a","model":"b"}', "twice"),
    "a member twice at depth": (b'{"metadata":{"a":[{"b":1,"b":2}]}}', "twice"),
    "a member twice in two spellings": (b'{"model":"a","mod\\u0065l":"b"}', "twice"),
    "a pair of escapes and its character": (b'{"\\ud83d\\ude00":1,"' + "\U0001f600".encode() + b'":2}', "twice"),
    "an escape that is none": (b'{"a\\x41":1}', "not JSON"),
    "an escape of three digits": (b'{"a\\u041":1}', "not JSON"),
    "a number of a thousand digits": (b'{"seed":' + b"9" * 1_000 + b"}", "a number is too long"),
    "no number": (b'{"temperature":NaN}', "not JSON"),
    "a hundred thousand members": ({f"p{n}": n for n in range(100_000)}, "more than 16384 values"),
    "a long name": (b'{"' + b"a" * 100_000 + b'":1}', "name is too long"),
    "an array": (b"[]", "may not have the type array"),
    "a text": (b'"a"', "may not have the type string"),
    "two documents": (b"{}{}", "more than one JSON document"),
    "half a document": (b'{"a":', "not JSON"),
    "nothing": (b"", "not JSON"),
}  # fmt: skip


def nested_schema(num_levels: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(num_levels):
        schema = {"type": "object", "properties": {"Stra\u00dfe": schema}}
    return schema


def as_bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize("case", REFUSED)
def test_a_body_of_infer_is_refused_whole_and_in_pieces(readers, case):
    body, reason = as_bytes(REFUSED[case][0]), REFUSED[case][1]
    check_refused(readers, "infer", body, reason)


@pytest.mark.parametrize("case", REFUSED_BY_GENERATE)
@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_a_body_of_generate_is_refused_whole_and_in_pieces(readers, call, case):
    body, reason = as_bytes(REFUSED_BY_GENERATE[case][0]), REFUSED_BY_GENERATE[case][1]
    check_refused(readers, call, body, reason)


@pytest.mark.parametrize("case", REFUSED_BY_OPENAI)
def test_a_body_of_the_openai_api_is_refused_whole_and_in_pieces(readers, case):
    check_refused(readers, "openai", as_bytes(REFUSED_BY_OPENAI[case][0]), REFUSED_BY_OPENAI[case][1])


@pytest.mark.parametrize(
    "more",
    [
        {"unknown": {"nested": [None, True, 1.5e3, {}]}, "temperature": None},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": nested_schema(47)}}},
        {"metadata": {'a"b\\c/d\n\u00e9\U0001f600': "", "A": 1, "a": 2}},
        {"logit_bias": {str(token): 1 for token in range(16_000)}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\\" * 1_000_000}]}]},
    ],
    ids=["unknown members", "a deep schema", "names with escapes", "many members", "a long text"],
)
def test_the_openai_api_may_have_members_that_the_gateway_does_not_know(readers, more):
    body = json.dumps({**CHAT, **more}).encode()
    assert readers.check_body("openai", body) == ALLOWED
    assert readers.check_body("openai", *(body[start : start + 997] for start in range(0, len(body), 997))) == ALLOWED


def as_unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is given twice")
    return members


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_read_by_python(body: bytes) -> bool:
    """Whether Python's reader takes the body as an object without a name twice; texts are Latin-1 to it."""
    try:
        read = json.loads(
            body.decode("latin-1"), strict=False, object_pairs_hook=as_unique, parse_constant=refuse_constant
        )
    except ValueError:
        return False
    return isinstance(read, dict)


def test_random_bodies_of_the_openai_api_are_refused_when_python_refuses_them(readers):
    source = random.Random(20_261_129)
    valid = json.dumps(
        {**CHAT, "metadata": {"\u00e9": 1, "\u00e8": [None, True, -1.5e-3, {}]}, "stop": ["\n", "a"], "seed": 10}
    ).encode()
    num_allowed = num_refused = 0
    for _ in range(NUM_BODIES // 4):
        body = bytearray(valid)
        for _ in range(source.randint(1, 2)):
            start = source.randrange(len(body))
            body[start : start + source.randint(0, 3)] = source.choice(CHANGES)
        checked = readers.check_body("openai", *pieces_of(bytes(body), source))
        is_allowed = is_read_by_python(bytes(body))
        # The guard does not look into texts, whose escapes may be none. It must never refuse what Python reads.
        assert not (is_allowed and checked.status), (bytes(body), checked)
        if not is_allowed and not checked.status:
            assert is_read_by_python(_ESCAPE.sub(b"", bytes(body))), bytes(body)
        num_allowed += is_allowed
        num_refused += bool(checked.status)
    check_survivors(num_allowed, NUM_BODIES // 4, 0.1)
    check_survivors(num_refused, NUM_BODIES // 4, 0.3)


def check_refused(readers, call, body, reason):
    whole = readers.check_body(call, body)
    assert whole.status == 400
    assert reason in whole.reason
    size = max(1, len(body) // 3_000)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    in_pieces = readers.check_body(call, *pieces)
    assert in_pieces.reason == whole.reason
    assert in_pieces.num_forwarded < len(body) or "not JSON" in reason


def test_the_bodies_that_tritons_client_makes_are_allowed(readers):
    text = InferInput("text_input", [2, 1], "BYTES").set_data_from_numpy(np.array([[b"a"], [b"b" * 9_000]], np.object_))
    numbers = InferInput("max_tokens", [2, 1], "INT32")
    numbers.set_data_from_numpy(np.array([[4], [5]], np.int32), binary_data=False)
    outputs = [InferRequestedOutput("text_output"), InferRequestedOutput("cost_usd", binary_data=False)]
    for given in (None, outputs):
        body, json_bytes = InferenceServerClient.generate_request_body(
            [text, numbers], outputs=given, request_id="7", timeout=5_000_000
        )
        assert readers.check_body("infer", body, json_bytes=json_bytes) == ALLOWED


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
@pytest.mark.parametrize("character", ["a", '"', "\\", "\u20ac"])
def test_a_long_text_is_allowed_whatever_its_escapes_are(readers, size, character):
    body = json.dumps({"text_input": character * (size // len(json.dumps(character)))}).encode()
    pieces = [body[start : start + 16_383] for start in range(0, len(body), 16_383)]
    assert readers.check_body("generate", *pieces) == ALLOWED


def test_every_split_of_a_body_gives_the_same_result(readers):
    body = json.dumps({"text_input": 'a \\ "b" \u20ac', "stop_words": ["x\\", '"'], "temperature": -1.5e-3}).encode()
    for first in range(len(body)):
        assert readers.check_body("generate", body[:first], body[first:]) == ALLOWED
    assert readers.check_body("generate", *(bytes([byte]) for byte in body)) == ALLOWED


def check_like_oracle(readers: GuardReaders, given: RandomBody, pieces: list[bytes]) -> bool:
    """Fail unless the guard says the same as the other reader; return whether both allow the body."""
    expected = refusal(given.call, given.body, given.json_bytes)
    checked = readers.check_body(given.call, *pieces, json_bytes=given.json_bytes)
    assert bool(checked.status) == bool(expected), (given, expected, checked)
    return not expected


def test_random_bodies_are_refused_exactly_when_another_reader_refuses_them(readers):
    source = random.Random(20_261_128)
    num_allowed = 0
    for _ in range(NUM_BODIES):
        given = changed_body(source)
        num_allowed += check_like_oracle(readers, given, pieces_of(given.body, source))
    check_survivors(num_allowed, NUM_BODIES, 0.15)
    check_survivors(NUM_BODIES - num_allowed, NUM_BODIES, 0.3)


def test_random_valid_bodies_are_allowed(readers):
    source = random.Random(7)
    for _ in range(NUM_BODIES // 10):
        given = valid_body(source)
        assert check_like_oracle(readers, given, pieces_of(given.body, source)), given
