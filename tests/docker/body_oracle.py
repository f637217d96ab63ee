"""A second statement of what the gateway's guard allows in a JSON body: with Python's own reader, on the whole body.

The guard does not look into strings that it only passes on; so the text of every escape is blanked out before parsing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llm_policy.triton.tensors import ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS, POSTPROCESS_OUTPUTS, STREAM_OUTPUTS
from llmstack.server.command import FORWARDED_HEADERS

TYPES = {spec.name: spec.data_type.removeprefix("TYPE_").replace("STRING", "BYTES") for spec in ENSEMBLE_INPUTS}
SETTLED = {spec.name for spec in POSTPROCESS_OUTPUTS}
PASSED_THROUGH = {spec.name for spec in ENSEMBLE_OUTPUTS} - SETTLED
STREAMED = {spec.name for spec in STREAM_OUTPUTS} - SETTLED
HEADERS = {name.lower() for name in FORWARDED_HEADERS} - {"x-canary-token"}
RANGES = {"INT32": (-(2**31), 2**31 - 1), "UINT64": (0, 2**64 - 1)}
MAX_FP32 = 3.4028234663852886e38
MAX_NUMBER_CHARS = 64
_NUMBER = re.compile(r"[-+.0-9A-Za-z]+")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPE = re.compile(rb"\\u0000|\\.", re.DOTALL)
_KEY_WITH_ESCAPE = re.compile(rb'"(?:[^"\\]|\\.)*"[ \t\r\n]*:', re.DOTALL)


class Refused(Exception):
    """The body has something that the guard must refuse."""


class Number(str):
    """A number as it is written."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """The members of an object in order, with duplicates."""


def refusal(call: str, body: bytes, json_bytes: int) -> str:
    """Why the guard must refuse this body; empty when it must allow it."""
    try:
        root = _parse(body[:json_bytes])
        members = _members(root)
        if call == "infer":
            _check_infer(members, len(body) - json_bytes)
        else:
            _check_generate(members)
    except Refused as reason:
        return str(reason)
    return ""


def _parse(text: bytes) -> Any:
    for match in _KEY_WITH_ESCAPE.finditer(text):
        if b"\\" in match[0] and _is_token(text, match.start()):
            raise Refused("an escape in a name")
    # Latin-1 has a character for each byte: bytes that are no UTF-8 stay in strings.
    blanked = _STRING.sub(_blank, text).decode("latin-1")
    if any(len(number) > MAX_NUMBER_CHARS for number in _NUMBER.findall(_without_strings(text))):
        raise Refused("no JSON")
    try:
        return json.loads(
            blanked, strict=False, object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise Refused("no JSON") from error


def _is_token(text: bytes, start: int) -> bool:
    return any(match.start() == start for match in _STRING.finditer(text))


def _without_strings(text: bytes) -> str:
    return _STRING.sub(b'""', text).decode("latin-1")


def _blank(match: re.Match[bytes]) -> bytes:
    """The string without escapes. A null character stays one."""
    return _ESCAPE.sub(lambda escape: b"\x00" if escape[0] == b"\\u0000" else b"__", match[0])


def _refuse(name: str) -> None:
    raise Refused(f"{name} is no JSON")


def _members(value: Any) -> dict[str, Any]:
    if not isinstance(value, Pairs):
        raise Refused("no object")
    members = dict(value)
    if len(members) != len(value):
        raise Refused("a member twice")
    return members


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or isinstance(value, Pairs):
        raise Refused("no array")
    return value


def _only(members: dict[str, Any], *names: str) -> None:
    if not members.keys() <= set(names):
        raise Refused("an unknown member")


def _text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Number) or "\0" in value or len(value) > 1024:
        raise Refused("no plain text")
    return value


def _whole(value: Any, low: int, high: int) -> int:
    if not isinstance(value, Number) or not re.fullmatch(r"\d+", value) or not low <= int(value) <= high:
        raise Refused("a number out of range")
    return int(value)


def _flag(value: Any) -> None:
    if not isinstance(value, bool):
        raise Refused("no boolean")


def _check_value(value: Any, data_type: str) -> None:
    if data_type == "BYTES":
        fits = isinstance(value, str) and not isinstance(value, Number)
    elif data_type == "BOOL":
        fits = isinstance(value, bool)
    elif data_type == "FP32":
        fits = isinstance(value, Number) and abs(float(value)) <= MAX_FP32
    else:
        low, high = RANGES[data_type]
        fits = isinstance(value, Number) and re.fullmatch(r"-?\d+", value) is not None and low <= int(value) <= high
        fits = fits and not (data_type == "UINT64" and value.startswith("-"))
    if not fits:
        raise Refused("a value of another type")


def _check_values(value: Any, data_type: str, levels: int) -> None:
    if isinstance(value, list) and not isinstance(value, Pairs):
        if levels == 0:
            raise Refused("too many levels")
        for item in value:
            _check_values(item, data_type, levels - 1)
    else:
        _check_value(value, data_type)


def _check_infer(members: dict[str, Any], bytes_after: int) -> None:
    _only(members, "id", "parameters", "inputs", "outputs")
    if "id" in members:
        _text(members["id"])
    parameters = _members(members.get("parameters", Pairs()))
    _only(parameters, "timeout", "binary_data_output")
    if "timeout" in parameters:
        _whole(parameters["timeout"], 0, 2**53)
    if "binary_data_output" in parameters:
        _flag(parameters["binary_data_output"])
    inputs = [_members(each) for each in _items(members.get("inputs", []))]
    names = [each.get("name") for each in inputs]
    if not names or len(set(map(str, names))) != len(names):
        raise Refused("no input, or one twice")
    if sum(_check_input(each) for each in inputs) != bytes_after:
        raise Refused("other binary data")
    _check_outputs([_members(each) for each in _items(members.get("outputs", []))])


def _check_input(given: dict[str, Any]) -> int:
    """Check one input; return its number of binary bytes."""
    _only(given, "name", "datatype", "shape", "data", "parameters")
    data_type = TYPES.get(_text(given.get("name")))
    if data_type is None or _text(given.get("datatype")) != data_type:
        raise Refused("another input")
    shape = _items(given.get("shape", []))
    if len(shape) > 4:
        raise Refused("too many dimensions")
    for index, dimension in enumerate(shape):
        _whole(dimension, 0 if index else 1, 65_536 if index else 1024)
    _check_values(_items(given.get("data", [])), data_type, 7)
    parameters = _members(given.get("parameters", Pairs()))
    _only(parameters, "binary_data_size")
    return _whole(parameters["binary_data_size"], 0, 2**31) if parameters else 0


def _check_outputs(outputs: list[dict[str, Any]]) -> None:
    names = []
    for each in outputs:
        _only(each, "name", "parameters")
        names.append(_text(each.get("name")))
        parameters = _members(each.get("parameters", Pairs()))
        _only(parameters, "binary_data")
        for value in parameters.values():
            _flag(value)
    check_output_names(names)


def check_output_names(names: list[str], model: str = "ensemble") -> None:
    """Raise Refused unless a request to this model may ask for these outputs."""
    others = STREAMED if model == "ensemble_stream" else PASSED_THROUGH
    if not set(names) <= SETTLED | others or len(set(names)) != len(names):
        raise Refused("an unknown output, or one twice")
    if names and not set(names) & SETTLED:
        raise Refused("no output of the policy")


def _check_generate(members: dict[str, Any]) -> None:
    headers = [name.lower() for name in members if name.lower() in HEADERS]
    if len(set(headers)) != len(headers):
        raise Refused("a header twice")
    for name, value in members.items():
        if name in TYPES:
            _check_values(value, TYPES[name], 9)
        elif name == "timeout":
            _whole(value, 0, 2**53)
        elif name == "id" or name.lower() in HEADERS:
            _text(value)
        else:
            raise Refused("an unknown member")
