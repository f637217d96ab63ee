"""The door's configuration: what an operator may choose, and what stays out of it."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmstack.__main__ import app
from llmstack.door.backend import Backend, BackendError, parse_backend
from llmstack.door.configuration import GUARD, Door, DoorError, write_door

TWO = [Backend("triton-1", 8000, 8001, 8003), Backend("[::1]", 9000, 9001, 9003)]


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ("triton-1:8000:8001", Backend("triton-1", 8000, 8001, 8003)),
        ("10.0.0.7:8000:8001:9", Backend("10.0.0.7", 8000, 8001, 9)),
        ("[fd00::7]:1:2:65535", Backend("[fd00::7]", 1, 2, 65_535)),
        ("a.b-c.example:8000:8001", Backend("a.b-c.example", 8000, 8001, 8003)),
    ],
)
def test_a_backend_is_host_and_ports(text, backend):
    assert parse_backend(text) == backend


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "host:1", "host:1:2:3:4", "host:0:1", "host:1:65536", ":1:2", "a b:1:2", "host\n:1:2", "h:١:2"),
        *("-host:1:2", "fd00::7:1:2", "[host]:1:2", "h;x:1:2", "[]:1:2", "a..b:1:2"),
    ],
)
def test_anything_else_is_named(text):
    with pytest.raises(BackendError, match=re.escape(repr(text))):
        parse_backend(text)


def test_every_backend_serves_both_protocols_and_is_checked_once():
    text = Door(TWO, "/door.pem", "/guard.lua").render()
    assert "server s1 triton-1:8000 port 8003\n" in text
    assert "server s2 [::1]:9000 port 9003\n" in text
    assert "server s1 triton-1:8001 proto h2 track triton_http/s1\n" in text
    assert "server s2 [::1]:9001 proto h2 track triton_http/s2\n" in text


def test_no_time_limit_lets_a_slow_guard_be_passed_over():
    assert "tune.lua.session-timeout 0\n" in Door(TWO, "/door.pem", "/guard.lua").render()


def test_a_door_that_leads_nowhere_is_refused():
    with pytest.raises(DoorError, match="--backend"):
        Door([], "/door.pem", "/guard.lua").render()


@pytest.mark.parametrize("certificate", ["/a b.pem", "/a.pem\n  bind *:1", '/a".pem', "/a.pem#", "/$HOME.pem", ""])
def test_a_value_can_not_become_a_directive(certificate):
    with pytest.raises(DoorError, match="certificate"):
        Door(TWO, certificate, "/guard.lua").render()


def test_the_guard_lies_beside_the_configuration(tmp_path: Path):
    guard = write_door(Door(TWO, "/door.pem", "/guard.lua"), tmp_path / "haproxy.cfg")
    assert guard == tmp_path / GUARD
    assert "lua-load-per-thread /guard.lua\n" in (tmp_path / "haproxy.cfg").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"haproxy.cfg", GUARD}


def test_the_command_names_a_bad_backend_and_writes_nothing(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    arguments = ["door", "render", "--backend", "nowhere", "--certificate", "/door.pem", "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "'nowhere' is not host:http:grpc" in result.output
    assert not output.exists()
