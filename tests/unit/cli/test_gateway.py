"""`llmstack gateway render`."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app

RENDER = ["gateway", "render", "--backend", "triton-1:8000:8001"]


def test_an_invalid_backend_is_named_and_nothing_is_written(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    arguments = ["gateway", "render", "--backend", "nowhere", "--certificate", "/gateway.pem", "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "'nowhere' is not host:http:grpc" in result.output
    assert not output.exists()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_haproxy_checks_the_configuration_when_the_certificate_exists(tmp_path: Path):
    certificate, output = tmp_path / "gateway.pem", tmp_path / "deep" / "haproxy" / "haproxy.cfg"
    certificate.write_text("no certificate")
    arguments = [*RENDER, "--certificate", str(certificate), "--output", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "is unchanged" in result.output
    assert not output.exists()
    result = CliRunner().invoke(app, [*arguments, "--no-validate"])
    assert result.exit_code == 0
    assert "not checked" in result.output
    assert output.exists()


def test_missing_directories_of_the_output_are_created(tmp_path: Path):
    output = tmp_path / "docker" / "haproxy" / "haproxy.cfg"
    result = CliRunner().invoke(app, [*RENDER, "--certificate", "/not-here.pem", "--output", str(output)])
    assert (result.exit_code, output.exists()) == (0, True)


def test_time_limits_are_options(tmp_path: Path):
    output = tmp_path / "haproxy.cfg"
    times = ["--max-header-s", "7", "--max-body-s", "11", "--max-answer-s", "601", "--max-stream-idle-s", "607"]
    CliRunner().invoke(app, [*RENDER, "--certificate", "/not-here.pem", "--output", str(output), *times])
    text = output.read_text()
    assert "timeout http-request 7s\n" in text
    assert "wait-for-body time 11s if is_post !is_openai\n" in text
    assert "timeout server 601s\n" in text
    assert "set-timeout server 607s " in text
