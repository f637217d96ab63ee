"""Headers go through as the client sent them."""

from __future__ import annotations

import pytest

from llmstack.openai.error import ApiError
from llmstack.openai.request_headers import ignored_header, read_headers


def test_only_named_headers_become_metadata_and_one_sent_twice_stays_twice():
    sent = [
        (b"x-tenant", b"a"),
        (b"x-tenant", b"b"),
        (b"authorization", b"Bearer k"),
        (b"x-api-key", b"k"),
        (b"cookie", b"c"),
        (b"x-canary-token", b"t"),
        (b"x-request-id", b"r"),
    ]
    headers = read_headers(sent)
    expected = [(name.decode(), value.decode()) for name, value in sent if name not in (b"cookie", b"x-canary-token")]
    assert list(headers.metadata) == expected
    assert headers.request_id == "r"


def test_a_request_without_an_id_gets_one():
    headers = read_headers([(b"x-engine-hash", b"sha256:1")])
    assert ("x-request-id", headers.request_id) in headers.metadata
    assert headers.engine_hash == "sha256:1"


def test_an_id_that_may_not_be_shown_is_sent_but_not_answered():
    headers = read_headers([(b"x-request-id", b"a" * 200)])
    assert (headers.metadata[0][1], headers.request_id) == ("a" * 200, "")


@pytest.mark.parametrize("value", [b"\xff", b"a\x00b", b"a\tb"])
def test_a_value_that_is_not_printable_is_refused(value):
    with pytest.raises(ApiError) as raised:
        read_headers([(b"x-tenant", value)])
    assert raised.value.code == "invalid_header"


def test_names_of_ignored_parameters_can_not_break_the_header():
    assert ignored_header(["b", "a", "c\r\nd", "é"]) == {"x-llmstack-ignored": "a, b"}
    assert ignored_header([]) == {}
