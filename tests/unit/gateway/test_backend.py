"""How a backend is written on the command line."""

import re

import pytest

from llmstack.gateway.backend import Address, Backend, BackendError, parse_address, parse_backend


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("triton-1:8000:8001", Backend("triton-1", 8000, 8001, 8003, 8005)),
        ("triton-1:1:2:3:4", Backend("triton-1", 1, 2, 3, 4)),
        ("10.0.0.7:8000:8001:9", Backend("10.0.0.7", 8000, 8001, 9)),
        ("[fd00::7]:1:2:65535", Backend("[fd00::7]", 1, 2, 65_535)),
        ("a.b-c.example:8000:8001", Backend("a.b-c.example", 8000, 8001, 8003)),
    ],
)
def test_a_backend_is_a_host_and_its_ports(text, backend):
    assert parse_backend(text) == backend


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "host",
            "host:1",
            "host:1:2:3:4:5",
            "host:1:2:3:0",
            "host:0:1",
            "host:1:65536",
            ":1:2",
            "a b:1:2",
            "host\n:1:2",
            "h:١:2",
        ),
        *("host:1:2:3:4:5", "host:1:2:3:0"),
        *("-host:1:2", "fd00::7:1:2", "[host]:1:2", "h;x:1:2", "[]:1:2", "a..b:1:2"),
    ],
)
def test_text_of_another_form_is_named_in_the_error(text):
    with pytest.raises(BackendError, match=re.escape(repr(text))):
        parse_backend(text)


@pytest.mark.parametrize(("text", "address"), [("openai-1:8005", ("openai-1", 8005)), ("[::1]:9", ("[::1]", 9))])
def test_an_address_is_a_host_and_a_port(text, address):
    assert parse_address(text) == Address(*address)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:1:2", "ho st:1", "::1:9"])
def test_an_address_of_another_form_is_named_in_the_error(text):
    with pytest.raises(BackendError, match=re.escape(repr(text))):
        parse_address(text)
