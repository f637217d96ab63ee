"""Random bodies for the gateway's guard: valid ones, and the same with something changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.docker.body_oracle import HEADERS, PASSED_THROUGH, SETTLED, TYPES

CALLS = ("infer", "generate", "generate_stream")
NUMBERS = [
    *(0, 1, 4, -1, 0.5, 2**53, 2**53 + 1, 10**30, 1e38, 1e39, -1e39, 1e300),
    *(2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32 + 4, 2**63 - 1, 2**63, 2**64 - 1, 2**64),
]
RAW_NUMBERS = ["-0", "1e5", "1E+2", "4.0", "01", "1.", ".5", "+1", "1e", "NaN", "-Infinity", "9" * 80, "1e400", "--1"]
NAMES = ["classification", "shared_memory_region", "sequence_id", "sequence_start", "priority", "foo", "", "a b", "é"]
KNOWN_NAMES = ["name", "data", "shape", "parameters", "outputs", "id", "timeout", "X-Canary-Token", *TYPES, *HEADERS]
# More escapes than the guard skips at once, of every kind, so that a change of a byte may move the end of the text.
MANY_ESCAPES = '{"a":"\\\\",\n"b\\":1},' * 7
TEXTS = [
    "",
    "hello",
    'a "quote"',
    "back\\slash",
    "line\nfeed",
    "null\0",
    "\u20ac\U0001f600",
    "[" * 40,
    "}]",
    "x" * 1500,
    MANY_ESCAPES,
]
BYTES = [*(bytes([byte]) for byte in b'\\"[]{},: \0\xff1e'), b"\\u0000", b"\\u0022", b"null", b"NaN"]


class RandomBody(NamedTuple):
    """A body of `call`; its first `json_bytes` bytes are JSON."""

    call: str
    body: bytes
    json_bytes: int


class Raw(str):
    """JSON text that goes into the body as it is."""

    __slots__ = ()


def valid_body(source: random.Random) -> RandomBody:
    """A body that the guard must allow, as far as random values allow that."""
    call = source.choice(CALLS)
    if call == "infer":
        root, after = _infer(source)
    else:
        root, after = _generate(source), b""
    text = dumps(root, source).encode()
    return RandomBody(call, text + after, len(text))


def changed_body(source: random.Random) -> RandomBody:
    """A body with up to three changes of its structure or of its bytes."""
    call = source.choice(CALLS)
    root, after = _infer(source) if call == "infer" else (_generate(source), b"")
    for _ in range(source.randrange(3)):
        source.choice(CHANGES)(source, root)
    text = bytearray(dumps(root, source).encode())
    for _ in range(source.choice((0, 0, 0, 1, 1, 2))):
        _change_bytes(source, text)
    if call == "infer" and source.random() < 0.05:
        after += b"x"
    return RandomBody(call, bytes(text) + after, len(text))


def pieces_of(body: bytes, source: random.Random) -> list[bytes]:
    """The body as it may arrive: whole, or in up to five pieces."""
    cuts = sorted(source.randrange(len(body) + 1) for _ in range(source.choice((0, 0, 1, 4))))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def dumps(value: Any, source: random.Random) -> str:
    """JSON text; an object is a list of pairs, so that it may have a name twice."""
    if isinstance(value, Raw):
        return value
    space = source.choice(("", "", "", " ", "\n", "\t "))
    if isinstance(value, Members):
        members = (f"{_quote(name, source)}{space}:{space}{dumps(item, source)}" for name, item in value)
        return "{" + space + f",{space}".join(members) + space + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(dumps(item, source) for item in value) + space + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=source.random() < 0.5)
    return json.dumps(value)


class Members(list[tuple[str, Any]]):
    """An object's members in order."""


def _quote(name: str, source: random.Random) -> str:
    if isinstance(name, Raw):
        return name
    return json.dumps(name, ensure_ascii=source.random() < 0.5)


def _value(source: random.Random, data_type: str) -> Any:
    values: dict[str, list[Any]] = {
        "BYTES": ["", "hello", 'a "quoted" word', "back\\slash", "line\nfeed", "\u20ac", "x" * 300, MANY_ESCAPES],
        "INT32": [0, 1, 4, -1, 2**31 - 1, -(2**31), Raw("-0")],
        "UINT64": [0, 7, 2**63, 2**64 - 1],
        "FP32": [0, 1, 0.7, -0.5, 0.699999988079071, 1e38, Raw("1E-5")],
        "BOOL": [True, False],
    }
    return source.choice(values[data_type])


def _infer(source: random.Random) -> tuple[Members, bytes]:
    after, inputs = b"", []
    for name in ["text_input", *source.sample(sorted(TYPES.keys() - {"text_input"}), source.randrange(4))]:
        data_type = TYPES[name]
        members = Members([("name", name), ("shape", [1, 1]), ("datatype", data_type)])
        if data_type == "BYTES" and source.random() < 0.2:
            size = source.randrange(12)
            after += b'{"\\[' * 3 + b"\0" * (size + 4)
            members.append(("parameters", Members([("binary_data_size", 12 + size + 4)])))
        else:
            rows = [_value(source, data_type) for _ in range(source.choice((1, 1, 1, 4)))]
            members[1] = ("shape", [len(rows), 1])
            members.append(("data", source.choice((rows, [[row] for row in rows]))))
        source.shuffle(members)
        inputs.append(members)
    root = Members([("inputs", inputs)])
    if source.random() < 0.3:
        names = [source.choice(sorted(SETTLED)), *source.sample(sorted(PASSED_THROUGH), source.randrange(3))]
        parameters = source.choice(([], [("parameters", Members([("binary_data", source.random() < 0.5)]))]))
        root.append(("outputs", [Members([("name", name), *parameters]) for name in names]))
    if source.random() < 0.3:
        root.append(("id", "request 7"))
    if source.random() < 0.3:
        root.append(("parameters", Members([("timeout", 5_000_000), ("binary_data_output", False)])))
    source.shuffle(root)
    return root, after


def _generate(source: random.Random) -> Members:
    names = ["text_input", *source.sample(sorted(TYPES.keys() - {"text_input"}), source.randrange(5))]
    root = Members([(name, _value(source, TYPES[name])) for name in names])
    headers = source.sample(sorted(HEADERS), source.randrange(len(HEADERS)))
    root += [(source.choice((name, name.title())), "some value") for name in headers]
    if source.random() < 0.2:
        root.append(("stop_words" if "stop_words" not in names else "id", source.choice((["a", "b"], "a"))))
        root[:] = [(name, value if name != "id" else "a") for name, value in root]
    source.shuffle(root)
    return root


def _containers(value: Any) -> list[Any]:
    """Every object and array inside, the outermost first."""
    found = []
    if isinstance(value, list):
        found.append(value)
        for item in value:
            found += _containers(item[1] if isinstance(value, Members) else item)
    return found


def _anything(source: random.Random) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: source.choice(NUMBERS),
        lambda: Raw(source.choice(RAW_NUMBERS)),
        lambda: source.choice(TEXTS),
        lambda: source.choice((True, False, None)),
        lambda: [source.choice(NUMBERS)],
        lambda: Members([(source.choice(NAMES), 1)]),
        lambda: Raw("[" * (depth := source.randrange(1, 14)) + source.choice(("", '"a"', "1")) + "]" * depth),
    )
    return source.choice(kinds)()


def _replace_value(source: random.Random, root: Members) -> None:
    container = source.choice(_containers(root))
    if container:
        index = source.randrange(len(container))
        new = _anything(source)
        container[index] = (container[index][0], new) if isinstance(container, Members) else new


def _add_member(source: random.Random, root: Members) -> None:
    objects = [each for each in _containers(root) if isinstance(each, Members)]
    source.choice(objects).append((source.choice((*NAMES, *KNOWN_NAMES)), _anything(source)))


def _repeat_member(source: random.Random, root: Members) -> None:
    container = source.choice(_containers(root))
    if container:
        container.insert(source.randrange(len(container) + 1), source.choice(container))


def _remove_member(source: random.Random, root: Members) -> None:
    container = source.choice(_containers(root))
    if container:
        del container[source.randrange(len(container))]


def _escape_name(source: random.Random, root: Members) -> None:
    members = source.choice([each for each in _containers(root) if isinstance(each, Members)])
    named = [index for index, (name, _) in enumerate(members) if name and name.isascii() and not isinstance(name, Raw)]
    if named:
        index = source.choice(named)
        name, value = members[index]
        members[index] = (Raw(f'"\\u{ord(name[0]):04x}{name[1:]}"'), value)


def _ask_for_engine_outputs(source: random.Random, root: Members) -> None:
    names = source.sample(sorted(PASSED_THROUGH), 2)
    root.append(("outputs", [Members([("name", name)]) for name in names]))


CHANGES = (
    _replace_value,
    _replace_value,
    _add_member,
    _repeat_member,
    _remove_member,
    _escape_name,
    _ask_for_engine_outputs,
)


def _change_bytes(source: random.Random, text: bytearray) -> None:
    start = source.randrange(len(text) + 1)
    kind = source.randrange(3)
    if kind == 0:
        del text[start : start + source.randrange(1, 4)]
    elif kind == 1:
        text[start:start] = source.choice(BYTES)
    else:
        text[start : start + 1] = source.choice(BYTES)
