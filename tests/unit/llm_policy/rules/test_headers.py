"""The header gate admits only requests that name this engine."""

import json
from collections.abc import Mapping

import pytest

from llm_policy.errors import Code, InvalidRequest
from llm_policy.ledger.row_record import RowRecord
from llm_policy.rules.headers import CANARY_TENANT, HeaderCheck, HeaderGate, loggable

ENGINE = "sha256:" + "a" * 64
GOOD = {"X-Engine-Hash": ENGINE, "X-Quantisation": "w4a8"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


def checked(parameters: object) -> HeaderCheck:
    """The result of a new gate, because a gate caches its results."""
    text = parameters if isinstance(parameters, str) else json.dumps(parameters)
    return HeaderGate(ENGINE, "w4a8").check(text)


def as_json(*pairs: tuple[str, object]) -> str:
    """A JSON object that may have a member more than once."""
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"


def text_of_length(length: int) -> str:
    """Valid parameters of exactly `length` characters."""
    padding = length - len(json.dumps({**GOOD, "traceparent": ""}))
    return json.dumps({**GOOD, "traceparent": "x" * padding})


def rejection(parameters: object) -> InvalidRequest:
    error = checked(parameters).error()
    assert error is not None
    return error


def sender(parameters: Mapping[str, object]) -> RowRecord:
    check = checked(parameters)
    assert check.error() is None
    return check.sender


def test_valid_headers_pass_with_tenant_and_request_id():
    headers = {**GOOD, "X-Tenant": "finance", "X-Request-Id": "r-1"}
    assert sender(headers) == RowRecord(tenant="finance", request_id="r-1")


def test_lower_case_names_from_grpc_pass():
    assert sender({name.lower(): value for name, value in GOOD.items()}) == RowRecord()


def test_parameters_of_triton_s_own_are_ignored():
    assert sender({**GOOD, "id": "7", "priority": 3, "timeout": 5_000_000, "triton_new": True}) == RowRecord()


def test_an_unknown_parameter_is_rejected():
    error = rejection({**GOOD, "max_token": 3})
    assert error.code is Code.INVALID_INPUT
    assert str(error) == "invalid_input: unknown parameter 'max_token', did you mean max_tokens?"


def test_a_misspelt_header_is_named_beside_the_missing_one():
    error = rejection({"X-Engine-Hsh": ENGINE, "X-Quantisation": "w4a8"})
    assert str(error) == (
        "missing_header: X-Engine-Hash is required, none was given; "
        "invalid_input: unknown parameter 'X-Engine-Hsh', did you mean X-Engine-Hash?"
    )


def test_an_unknown_parameter_leaves_its_sender_known():
    check = checked({**GOOD, "X-Tenant": "finance", "X-Request-Id": "r-1", "max_token": 3})
    assert check.error() is not None
    assert check.sender == RowRecord(tenant="finance", request_id="r-1")


def test_the_canary_has_no_unknown_parameters_either():
    gate = HeaderGate(ENGINE, "w4a8", "token")
    check = gate.check(json.dumps({**GOOD, "X-Canary-Token": "token", "max_token": 3}))
    assert check.error() is not None
    assert not check.sender.is_canary


def test_the_verdict_about_a_repeated_unknown_parameter_is_cached():
    gate, text = HeaderGate(ENGINE, "w4a8"), json.dumps({**GOOD, "max_token": 3})
    assert gate.check(text) is gate.check(text)


@pytest.mark.parametrize("parameters", ["", "{}", "null", "3"])
def test_both_missing_headers_are_reported_together(parameters):
    error = rejection(parameters)
    assert error.code is Code.MISSING_HEADER
    assert str(error) == (
        "missing_header: X-Engine-Hash is required, none was given; "
        "missing_header: X-Quantisation is required, none was given"
    )


def test_a_wrong_hash_and_a_missing_quantisation_are_reported_together():
    error = rejection({"X-Engine-Hash": "sha256:" + "b" * 64})
    assert error.code is Code.ENGINE_HASH_MISMATCH
    assert str(error) == (
        f"engine_hash_mismatch: X-Engine-Hash is sha256:{'b' * 64}, this server runs {ENGINE}; "
        "missing_header: X-Quantisation is required, none was given"
    )


def test_a_mismatch_states_the_given_and_the_expected_value():
    error = rejection({**GOOD, "X-Quantisation": "fp16"})
    assert str(error) == "quantisation_mismatch: X-Quantisation is fp16, this server runs w4a8"


@pytest.mark.parametrize("spelling", ["X-Engine-Hash", "x-engine-hash"])
def test_a_header_given_twice_is_rejected_even_if_both_are_valid(spelling):
    error = rejection(f'{{"X-Engine-Hash":"{ENGINE}","X-Quantisation":"w4a8","{spelling}":"{ENGINE}"}}')
    assert str(error) == "invalid_header: X-Engine-Hash was given more than once, limit 1"


def test_a_header_given_three_times_is_reported_once():
    error = rejection(as_json(*GOOD.items(), *[("X-Tenant", "finance")] * 3))
    assert str(error) == "invalid_header: X-Tenant was given more than once, limit 1"


def test_a_header_given_twice_does_not_name_the_sender():
    check = checked(as_json(*GOOD.items(), ("X-Tenant", "finance"), ("X-Tenant", "finance")))
    assert check.sender == RowRecord()


def test_the_headers_after_one_given_twice_are_read():
    tenant = ("X-Tenant", "finance")
    check = checked(as_json(tenant, tenant, *GOOD.items(), ("X-Request-Id", "r-1")))
    assert str(check.error()) == "invalid_header: X-Tenant was given more than once, limit 1"
    assert check.sender == RowRecord(request_id="r-1")


@pytest.mark.parametrize("length", [1, 128])
def test_an_optional_header_of_1_to_128_characters_passes(length):
    assert sender({**GOOD, "X-Tenant": "x" * length}) == RowRecord(tenant="x" * length)


@pytest.mark.parametrize("length", [0, 129])
def test_an_optional_header_of_another_length_is_rejected(length):
    error = rejection({**GOOD, "X-Tenant": "x" * length})
    assert str(error) == f"invalid_header: X-Tenant has {length} characters, allowed 1 to 128"


@pytest.mark.parametrize(
    "value", ["caf\u00e9", "a\nb", "a\x00b", "\x00", "a\x00", "\x1b[2J", "a\x7f", "\x80", "\u2028"]
)
def test_a_header_that_is_not_printable_ascii_is_rejected(value):
    error = rejection({**GOOD, "X-Tenant": value})
    assert str(error) == "invalid_header: X-Tenant has characters that are not printable ASCII"


@pytest.mark.parametrize(("value", "type_name"), [(5, "int"), (True, "bool"), (1.5, "float"), (None, "NoneType")])
def test_a_header_that_is_not_a_string_is_rejected(value, type_name):
    error = rejection({**GOOD, "X-Engine-Hash": value})
    assert str(error) == f"invalid_header: X-Engine-Hash has type {type_name}, a string is required"


def test_an_invalid_header_is_not_reported_as_missing_too():
    error = rejection({**GOOD, "X-Engine-Hash": ""})
    assert str(error) == "invalid_header: X-Engine-Hash has 0 characters, allowed 1 to 128"


def test_the_valid_headers_of_a_rejected_request_name_its_sender():
    check = checked({"X-Tenant": "finance", "X-Request-Id": "r-1", "X-Engine-Hash": ""})
    assert check.error() is not None
    assert check.sender == RowRecord(tenant="finance", request_id="r-1")


def test_each_rejected_request_gets_an_error_of_its_own():
    gate = HeaderGate(ENGINE, "w4a8")
    first, second = gate.check("{}").error(), gate.check("{}").error()
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


def test_a_server_without_a_token_rejects_every_token():
    error = rejection({**GOOD, "X-Canary-Token": "token"})
    assert str(error) == "invalid_header: X-Canary-Token is not this server's token"


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACEPARENT"])
def test_the_trace_id_is_read_from_traceparent_in_any_case(name):
    assert sender({**GOOD, name: TRACEPARENT}) == RowRecord(trace_id=TRACE_ID)


def test_a_traceparent_of_a_later_version_may_have_more_fields():
    assert sender({**GOOD, "traceparent": f"01-{TRACE_ID}-{PARENT_ID}-01-more"}) == RowRecord(trace_id=TRACE_ID)


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{TRACE_ID[:-1]}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"{TRACEPARENT}\n",
        "",
        5,
        None,
    ],
)
def test_a_malformed_traceparent_is_ignored(value):
    assert sender({**GOOD, "traceparent": value}) == RowRecord()


def test_two_traceparents_are_ignored():
    text = as_json(*GOOD.items(), ("traceparent", TRACEPARENT), ("Traceparent", TRACEPARENT))
    assert checked(text) == HeaderCheck(RowRecord())


def test_parameters_of_1024_characters_are_cached():
    gate, text = HeaderGate(ENGINE, "w4a8"), text_of_length(1_024)
    assert gate.check(text) is gate.check(text)


def test_longer_parameters_are_checked_without_the_cache():
    gate, text = HeaderGate(ENGINE, "w4a8"), text_of_length(1_025)
    first, second = gate.check(text), gate.check(text)
    assert first is not second
    assert first == second == HeaderCheck(RowRecord())


@pytest.mark.parametrize(("num_others", "is_cached"), [(255, True), (256, False)])
def test_the_cache_holds_the_last_256_results(num_others, is_cached):
    gate, text = HeaderGate(ENGINE, "w4a8"), json.dumps(GOOD)
    first = gate.check(text)
    for number in range(num_others):
        gate.check(json.dumps({**GOOD, "X-Request-Id": f"r-{number}"}))
    assert (gate.check(text) is first) == is_cached


@pytest.mark.parametrize("text", ["", "r-1", "x" * 128])
def test_short_printable_ascii_is_loggable(text):
    assert loggable(text) == text


@pytest.mark.parametrize("text", ["x" * 129, "caf\u00e9", "a\nb", "a\x7f"])
def test_other_text_is_not_loggable(text):
    assert loggable(text) == ""
