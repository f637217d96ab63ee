"""The header gate admits only requests that name this engine."""

import json
from collections.abc import Mapping

import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.ledger.row_record import RowRecord
from llm_policy.rules.headers import CANARY_TENANT, HeaderGate

ENGINE = "sha256:" + "a" * 64
GATE = HeaderGate(ENGINE, "w4a8")
GOOD = {"X-Engine-Hash": ENGINE, "X-Quantisation": "w4a8"}


def rejection(parameters: object) -> InvalidRequest:
    text = parameters if isinstance(parameters, str) else json.dumps(parameters)
    error = GATE.check(text).error()
    assert error is not None
    return error


def sender(parameters: Mapping[str, object]) -> RowRecord:
    check = GATE.check(json.dumps(parameters))
    assert check.error() is None
    return check.sender


def test_valid_headers_pass_with_tenant_and_request_id():
    headers = {**GOOD, "X-Tenant": "finance", "X-Request-Id": "r-1"}
    assert sender(headers) == RowRecord(tenant="finance", request_id="r-1")


def test_lower_case_names_from_grpc_pass():
    assert sender({name.lower(): value for name, value in GOOD.items()}) == RowRecord()


def test_an_unknown_parameter_is_ignored():
    assert sender({**GOOD, "priority": 3}) == RowRecord()


@pytest.mark.parametrize("parameters", ["", "{}"])
def test_both_missing_headers_are_reported_together(parameters):
    error = rejection(parameters)
    assert error.code is Code.MISSING_HEADER
    assert "X-Engine-Hash is required" in str(error)
    assert "missing_header: X-Quantisation is required" in str(error)


def test_a_wrong_hash_and_a_missing_quantisation_are_reported_together():
    error = rejection({"X-Engine-Hash": "sha256:" + "b" * 64})
    assert error.code is Code.ENGINE_HASH_MISMATCH
    assert "missing_header: X-Quantisation" in str(error)


def test_a_mismatch_states_the_given_and_the_expected_value():
    error = rejection({**GOOD, "X-Quantisation": "fp16"})
    assert str(error) == "quantisation_mismatch: X-Quantisation is fp16, this server runs w4a8"


@pytest.mark.parametrize("spelling", ["X-Engine-Hash", "x-engine-hash"])
def test_a_header_given_twice_is_rejected_even_if_both_are_valid(spelling):
    error = rejection(f'{{"X-Engine-Hash":"{ENGINE}","X-Quantisation":"w4a8","{spelling}":"{ENGINE}"}}')
    assert str(error) == "invalid_header: X-Engine-Hash was given more than once, limit 1"


@pytest.mark.parametrize("value", ["", "x" * 129, "caf\u00e9", "a\nb", "a\x00b"])
def test_characters_and_length_of_optional_headers_are_checked(value):
    assert rejection({**GOOD, "X-Tenant": value}).code is Code.INVALID_HEADER


@pytest.mark.parametrize("value", [5, True, 1.5, None])
def test_a_header_that_is_not_a_string_is_rejected(value):
    assert rejection({**GOOD, "X-Engine-Hash": value}).code is Code.INVALID_HEADER


def test_an_invalid_header_is_not_reported_as_missing_too():
    assert "missing_header" not in str(rejection({**GOOD, "X-Engine-Hash": ""}))


def test_the_valid_headers_of_a_rejected_request_name_its_sender():
    check = GATE.check(json.dumps({"X-Tenant": "finance", "X-Request-Id": "r-1", "X-Engine-Hash": ""}))
    assert check.error() is not None
    assert check.sender == RowRecord(tenant="finance", request_id="r-1")


def test_each_rejected_request_gets_an_error_of_its_own():
    first, second = rejection({}), rejection({})
    assert first is not second
    assert str(first) == str(second)


def test_only_a_request_with_the_token_is_the_canary():
    gate = HeaderGate(ENGINE, "w4a8", "token")
    check = gate.check(json.dumps({**GOOD, "X-Canary-Token": "token", "X-Request-Id": "canary-1"}))
    assert (check.sender, check.error()) == (
        RowRecord(tenant=CANARY_TENANT, request_id="canary-1", is_canary=True),
        None,
    )
    for headers in ({"X-Canary-Token": "other"}, {"X-Tenant": CANARY_TENANT}):
        rejected = gate.check(json.dumps({**GOOD, **headers}))
        assert (rejected.error().code, rejected.sender) == (Code.INVALID_HEADER, RowRecord())
