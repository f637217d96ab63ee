"""What `llmstack serve` says about API keys before it starts anything."""

import os
import subprocess
import sys

import pytest


def serve(tmp_path, *arguments: str, **environment: str) -> str:
    """The output of a service whose release does not exist."""
    command = [sys.executable, "-m", "llmstack", "serve", "--release", str(tmp_path / "none"), "--http-port", "0"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--ready-port", "0", "--no-openai"]
    command += ["--state-dir", str(tmp_path / "state"), *arguments]
    own = {name: value for name, value in os.environ.items() if name != "LLMSTACK_REQUIRE_API_KEYS"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own | environment)
    assert done.returncode == 1
    return done.stdout


def test_a_loopback_address_gives_no_warning(tmp_path):
    assert "WARNING" not in serve(tmp_path)


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_public_address_without_keys_is_a_loud_warning(tmp_path, by_variable):
    off = {"LLMSTACK_REQUIRE_API_KEYS": "0"} if by_variable else {}
    output = serve(tmp_path, "--host", "0.0.0.0", *([] if by_variable else ["--no-require-api-keys"]), **off)
    assert "WARNING: API keys: NOT REQUIRED on 0.0.0.0" in output
    assert "--require-api-keys" in output


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--require-api-keys"]])
def test_required_keys_without_a_tenant_are_a_warning_with_the_command(tmp_path, arguments):
    output = serve(tmp_path, *arguments)
    assert "WARNING: API keys: required, but no tenant has a valid one" in output
    assert f"llmstack tenant create NAME --state-dir {tmp_path / 'state'}" in output
