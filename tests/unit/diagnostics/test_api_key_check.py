"""The check of API keys, on real ledgers."""

import time
from contextlib import closing

import pytest

from llm_policy.ledger.database import FILE_NAME, open_database
from llmstack.diagnostics.api_key_check import check_api_keys
from llmstack.diagnostics.check_result import CheckStatus
from tests.tenants import add_tenant


@pytest.fixture
def requiring(deployment):
    return deployment._replace(host="10.0.0.1", requires_api_keys=True)


def test_a_loopback_address_without_keys_is_ok(deployment):
    assert check_api_keys(deployment).status is CheckStatus.OK


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_a_public_address_without_keys_is_a_warning_with_the_option(deployment, host):
    result = check_api_keys(deployment._replace(host=host))
    assert result.status is CheckStatus.WARN
    assert host in result.text
    assert "--require-api-keys" in result.next_step


def test_required_keys_without_a_tenant_are_a_warning_with_the_command(requiring):
    result = check_api_keys(requiring)
    assert result.status is CheckStatus.WARN
    assert "llmstack tenant create" in result.next_step
    assert str(requiring.state_dir) in result.next_step
    assert not requiring.state_dir.exists()


def test_a_valid_key_is_enough_and_an_ended_one_is_not(requiring):
    requiring.state_dir.mkdir()
    with closing(open_database(requiring.state_dir / FILE_NAME)) as connection:
        assert check_api_keys(requiring).status is CheckStatus.WARN
        add_tenant(connection, "acme")
        assert check_api_keys(requiring).text == "required; valid keys: 1"
        connection.execute("UPDATE tenant_key SET ends_ns = ?", (time.time_ns(),))
        assert check_api_keys(requiring).status is CheckStatus.WARN


def test_a_ledger_that_can_not_be_read_is_no_reason_for_a_warning(requiring):
    requiring.state_dir.mkdir()
    (requiring.state_dir / FILE_NAME).write_bytes(b"no database" * 100)
    assert check_api_keys(requiring) == ("API keys", CheckStatus.OK, "required", "")
