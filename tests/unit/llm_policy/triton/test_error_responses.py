"""Errors as the client receives them: a declared one as it is, any other as a reference to the log."""

import json

import pytest

from llm_policy.errors import Code, Status, create_error
from tests import pb_utils

PROMPT = "tulip-marmalade"


class Panic(BaseException):
    """What a native library raises; not an Exception."""


def raised(error):
    """`error` with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize("code", Code)
def test_a_declared_error_has_its_text_and_status(triton, code):
    error = create_error(code, "rule, limit, value")
    assert triton.error_responses.as_policy_error(error) is error
    response = triton.error_responses.error_response(error)
    assert response.error().message() == f"{code.value}: rule, limit, value"
    assert response.error().code() == pb_utils.STATUSES[error.status.name]


def test_every_status_is_one_of_tritons():
    assert {status.name for status in Status} <= set(pb_utils.STATUSES)


@pytest.mark.parametrize("error", [ValueError(PROMPT), Panic(PROMPT)], ids=["exception", "panic"])
def test_an_unexpected_exception_is_logged_by_type_and_place_without_its_text(triton, capfd, error):
    fault = triton.error_responses.as_policy_error(raised(error))
    line = json.loads(capfd.readouterr().out)
    assert str(fault) == f"internal: unexpected error, reference {line['reference']}"
    assert (line["event"], line["error"]) == ("internal_fault", type(error).__name__)
    assert [place.split(":")[0] for place in line["at"]] == ["test_error_responses.raised"]
    assert PROMPT not in str(line)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=["interrupt", "exit"])
def test_the_end_of_the_process_is_not_an_error_of_a_request(triton, error):
    with pytest.raises(type(error)):
        triton.error_responses.as_policy_error(error)
