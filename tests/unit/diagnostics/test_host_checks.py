"""Checks of the host, on real files, ports and directories."""

import socket

from llmstack.diagnostics.check_result import CheckStatus
from llmstack.diagnostics.host_checks import check_ports, check_shared_memory, check_state_directory, check_webhooks
from llmstack.supervision.state_directory import StateDirectory
from tests.webhook_receiver import new_secret, write_secrets


def test_the_size_of_shared_memory_is_reported(deployment):
    assert "MiB" in check_shared_memory(deployment).text


def test_checking_the_state_directory_changes_nothing_in_it(deployment):
    assert check_state_directory(deployment).status is not CheckStatus.FAIL
    assert not deployment.state_dir.exists()
    with StateDirectory(deployment.state_dir) as state:
        state.begin_draining()
    before = {path.name: path.stat().st_mtime_ns for path in deployment.state_dir.iterdir()}
    assert check_state_directory(deployment).status is not CheckStatus.FAIL
    assert {path.name: path.stat().st_mtime_ns for path in deployment.state_dir.iterdir()} == before
    assert "draining" in before


def test_a_state_directory_that_can_not_be_created_fails(deployment, tmp_path):
    (tmp_path / "file").touch()
    assert check_state_directory(deployment._replace(state_dir=tmp_path / "file" / "state")).status is CheckStatus.FAIL


def test_a_state_directory_in_use_fails(deployment):
    with StateDirectory(deployment.state_dir):
        assert check_state_directory(deployment).status is CheckStatus.FAIL


def test_the_state_directory_and_ports_of_this_running_service_are_ok(deployment):
    with StateDirectory(deployment.state_dir), socket.create_server(("127.0.0.1", 0)) as listening:
        running = deployment._replace(ports={"http": listening.getsockname()[1]})
        for check in (check_state_directory, check_ports):
            result = check(running)
            assert (result.status, "used by this running service" in result.text) == (CheckStatus.OK, True)


def test_webhooks_are_named_and_their_secrets_are_read(deployment, tmp_path):
    assert check_webhooks(deployment).status is CheckStatus.WARN
    environment = {
        "LLMSTACK_READINESS_WEBHOOK_URL": "https://hooks.example/secret-path",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
    }
    configured = deployment._replace(environment=environment)
    assert check_webhooks(configured).status is CheckStatus.FAIL
    write_secrets(tmp_path / "secret", new_secret())
    assert check_webhooks(configured)[1:3] == (CheckStatus.OK, "readiness")


def test_an_unreachable_webhook_is_a_warning_that_omits_the_path(deployment, tmp_path):
    write_secrets(tmp_path / "secret", new_secret())
    environment = {
        "LLMSTACK_READINESS_WEBHOOK_URL": "http://127.0.0.1:9/secret-path",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
    }
    result = check_webhooks(deployment._replace(environment=environment, connects_to_webhooks=True))
    assert result.status is CheckStatus.WARN
    assert "127.0.0.1:9" in result.text
    assert "secret-path" not in result.text


def test_a_taken_port_is_named(deployment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = check_ports(deployment._replace(ports={"http": port, "grpc": 0}))
    assert (result.status, result.text) == (CheckStatus.FAIL, f"taken on 127.0.0.1: http {port}")
