"""The gateway's configuration: what an operator may choose, and what stays out of it."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_policy.release.release import Release
from llmstack.cli.app import app
from llmstack.gateway.backend import Backend, BackendError, parse_backend
from llmstack.gateway.configuration import GUARD, Gateway, GatewayError, Limits, write_gateway
from llmstack.paths import DEFAULT_RELEASE_DIR

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
    text = Gateway(TWO, "/gateway.pem", "/guard.lua").render()
    assert "server s1 triton-1:8000 port 8003\n" in text
    assert "server s2 [::1]:9000 port 9003\n" in text
    assert "server s1 triton-1:8001 proto h2 track triton_http/s1\n" in text
    assert "server s2 [::1]:9001 proto h2 track triton_http/s2\n" in text


def test_no_time_limit_lets_a_slow_guard_be_passed_over():
    assert "tune.lua.session-timeout 0\n" in Gateway(TWO, "/gateway.pem", "/guard.lua").render()


def test_a_gateway_that_leads_nowhere_is_refused():
    with pytest.raises(GatewayError, match="--backend"):
        Gateway([], "/gateway.pem", "/guard.lua").render()


@pytest.mark.parametrize("certificate", ["/a b.pem", "/a.pem\n  bind *:1", '/a".pem', "/a.pem#", "/$HOME.pem", ""])
def test_a_value_can_not_become_a_directive(certificate):
    with pytest.raises(GatewayError, match="certificate"):
        Gateway(TWO, certificate, "/guard.lua").render()


def test_the_guard_lies_beside_the_configuration(tmp_path: Path):
    guard = write_gateway(Gateway(TWO, "/gateway.pem", "/guard.lua"), tmp_path / "haproxy.cfg")
    assert guard == tmp_path / GUARD
    assert "lua-load-per-thread /guard.lua\n" in (tmp_path / "haproxy.cfg").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"haproxy.cfg", GUARD}


def test_the_command_names_a_bad_backend_and_writes_nothing(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    arguments = ["gateway", "render", "--backend", "nowhere", "--certificate", "/gateway.pem", "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "'nowhere' is not host:http:grpc" in result.output
    assert not output.exists()


RENDER = ["gateway", "render", "--backend", "triton-1:8000:8001"]


def test_what_haproxy_refuses_does_not_take_the_place_of_what_was_there(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    write_gateway(Gateway(TWO, "/gateway.pem", str(tmp_path / GUARD)), output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    seen = []

    def refuse(path: Path) -> str:
        seen.append(path.read_text())
        return "line 3 is wrong"

    with pytest.raises(GatewayError, match="line 3 is wrong"):
        write_gateway(Gateway(TWO, "/other.pem", str(tmp_path / GUARD)), output, refuse)
    assert "/other.pem" in seen[0]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_the_command_has_haproxy_check_a_configuration_whose_certificate_is_here(tmp_path: Path):
    certificate, output = tmp_path / "gateway.pem", tmp_path / "deep" / "haproxy" / "haproxy.cfg"
    certificate.write_text("no certificate")
    arguments = [*RENDER, "--certificate", str(certificate), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "stays as it was" in result.output
    assert not output.exists()
    result = CliRunner().invoke(app, [*arguments, "--no-validate"])
    assert result.exit_code == 0
    assert "not checked" in result.output
    assert output.exists()


def test_directories_on_the_way_to_the_output_are_made(tmp_path: Path):
    output = tmp_path / "docker" / "haproxy" / "haproxy.cfg"
    result = CliRunner().invoke(app, [*RENDER, "--certificate", "/not-here.pem", "--output", str(output)])
    assert (result.exit_code, output.exists()) == (0, True)


def test_times_are_options(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    times = ["--max-header-s", "7", "--max-body-s", "11", "--max-answer-s", "601", "--max-stream-idle-s", "607"]
    CliRunner().invoke(app, [*RENDER, "--certificate", "/not-here.pem", "--output", str(output), *times])
    text = output.read_text()
    assert "timeout http-request 7s\n" in text
    assert "wait-for-body time 11s if is_post\n" in text
    assert "timeout server 601s\n" in text
    assert "set-timeout server 607s " in text


def test_the_longest_answer_of_a_usual_release_has_time_at_20_tokens_a_second():
    thresholds = Release.open(DEFAULT_RELEASE_DIR).manifest.thresholds
    assert thresholds.max_tokens / 20 <= Limits().max_answer_s


def test_metadata_is_closed_unless_it_is_asked_for():
    closed, opened = (
        Gateway(TWO, "/gateway.pem", "/guard.lua", allow_metadata=allow).render() for allow in (False, True)
    )
    for name in ("/v2/models/ensemble ", "/v2/models/ensemble\n", "ModelMetadata"):
        assert name not in closed
    assert "/v2/models/ensemble\n" in opened
    assert "/inference.GRPCInferenceService/ModelMetadata" in opened


def test_behind_a_balancer_the_limits_are_those_of_the_address_that_it_names():
    text = Gateway(TWO, "/gateway.pem", "/guard.lua", accept_proxy=True).render()
    assert len(re.findall("^    bind .* accept-proxy", text, re.MULTILINE)) == 3
    assert "tcp-request connection" not in text


def test_two_gateways_of_a_machine_do_not_share_their_inner_connections():
    one, other = (Gateway(TWO, "/gateway.pem", "/guard.lua", http_port=port) for port in (1, 2))
    assert one.inside != other.inside
