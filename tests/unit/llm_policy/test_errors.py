"""The error tree: its drawing, its documentation, and one status and retry answer for each code."""

import re

import pytest

from llm_policy import errors
from llm_policy.errors import (
    Code,
    InternalFault,
    InvalidRequest,
    LedgerUnavailable,
    PolicyError,
    Status,
    Unavailable,
    create_error,
    find_code,
    invalid_input,
)
from tests.import_graph import ROOT


def error_types(of=PolicyError):
    """The classes below `of`, each with its depth in the tree."""
    for error_type in of.__subclasses__():
        yield error_type
        yield from error_types(error_type)


def depth(error_type):
    return error_type.__mro__.index(PolicyError)


def test_the_drawing_in_the_docstring_is_the_tree_of_classes():
    drawn = re.findall(r"^([│ ]*[├└]── )(\w+) +(\w+) (\d+), (final|retryable): ", errors.__doc__, re.MULTILINE)
    assert [(len(line) // 4, *rest) for line, *rest in drawn] == [
        (
            depth(error_type),
            error_type.__name__,
            error_type.status.name,
            str(error_type.status.value),
            "retryable" if error_type.is_retryable else "final",
        )
        for error_type in error_types()
    ]
    assert errors.__doc__.count("── ") == len(drawn)


@pytest.mark.parametrize("code", Code)
def test_every_code_belongs_to_one_class_with_a_status_and_a_retry_answer(code):
    (error_type,) = [error_type for error_type in error_types() if code in error_type.codes]
    error = create_error(code, "detail")
    assert type(error) is error_type
    assert isinstance(error.status, Status)
    assert isinstance(error.is_retryable, bool)
    assert (error.code, error.detail, str(error)) == (code, "detail", f"{code.value}: detail")


@pytest.mark.parametrize("error_type", list(error_types()))
def test_no_class_shares_a_code_with_the_class_above_it(error_type):
    assert "codes" in vars(error_type)
    assert not error_type.codes & error_type.__base__.codes


def test_an_error_can_not_have_a_code_of_another_class():
    with pytest.raises(ValueError, match="overloaded is not a code of InvalidRequest"):
        InvalidRequest(Code.OVERLOADED, "detail")


def test_the_table_in_the_documentation_has_every_code_with_its_status_and_retry_answer():
    page = (ROOT / "docs" / "api.md").read_text()
    documented = {}
    for status, codes, retry in re.findall(r"^\| (\d{3}) \| (`.+?`) \| .* \| ([^|]+) \|$", page, re.MULTILINE):
        for code in re.findall(r"`(\w+)`", codes):
            # Another engine's server may answer a mismatch, but not this one.
            documented[code] = (int(status), retry.startswith("yes"))
    assert documented == {
        code.value: (error_type.status.value, error_type.is_retryable)
        for error_type in error_types()
        for code in error_type.codes
    }


ERRORS = [
    invalid_input("top_k is -1"),
    Unavailable(Code.OVERLOADED, "64 requests wait"),
    LedgerUnavailable("disk is full"),
    InternalFault("0123456789ab"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_row_number_and_a_prefix_keep_class_and_code(error):
    in_row, prefixed = error.in_row(3), error.with_prefix("registered schema order: ")
    assert type(in_row) is type(prefixed) is type(error)
    assert str(in_row) == f"{error} (row 3)"
    assert str(prefixed) == f"{error.code.value}: registered schema order: {error.detail}"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("prefix", ["", "in ensemble 'ensemble', "])
def test_the_code_is_found_in_the_text_that_a_client_receives(error, prefix):
    assert find_code(f"{prefix}{error}") is error.code


@pytest.mark.parametrize("text", ["", "internal", "something overloaded: now", "model 'x' is not ready", "unknown: x"])
def test_a_text_that_the_policy_did_not_write_has_no_code(text):
    assert find_code(text) is None
