"""JSON pointers are resolved as RFC 6901 says."""

import pytest

from llmstack.release.checks.json_pointer import PointerError, resolve

# RFC 6901, section 5.
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}
POINTERS = {
    "": DOCUMENT,
    "/foo": ["bar", "baz"],
    "/foo/0": "bar",
    "/": 0,
    "/a~1b": 1,
    "/c%d": 2,
    "/e^f": 3,
    "/g|h": 4,
    "/i\\j": 5,
    '/k"l': 6,
    "/ ": 7,
    "/m~0n": 8,
}


@pytest.mark.parametrize("pointer", POINTERS)
def test_a_pointer_resolves_as_the_standard_says(pointer):
    assert resolve(DOCUMENT, pointer) == POINTERS[pointer]


@pytest.mark.parametrize("pointer", ["foo", "/foo/2", "/foo/-1", "/foo/00", "/foo/-", "/nowhere", "/foo/0/x"])
def test_a_pointer_without_a_value_is_an_error(pointer):
    with pytest.raises(PointerError):
        resolve(DOCUMENT, pointer)
