"""Tenants and their keys in the ledger."""

import time

import pytest

from llm_policy.api_key import digest_of
from llm_policy.ledger.tenant import Tenant, TenantLimits, find_by_key, is_registered, parse_limits, read_limits
from tests.ledgers import open_ledger
from tests.tenants import add_tenant

LIMITS = TenantLimits(max_nano_usd_per_day=5, tasks=("judge",), schemas=())


@pytest.fixture
def connection(tmp_path):
    opened = open_ledger(tmp_path).connection
    yield opened
    opened.close()


def find(connection, key, now_ns=None):
    return find_by_key(connection, digest_of(key), now_ns or time.time_ns())


def test_limits_survive_their_text():
    assert parse_limits(LIMITS.as_text()) == LIMITS
    assert parse_limits('{"max_requests_per_minute": 3, "of_a_later_version": 1}') == TenantLimits(
        max_requests_per_minute=3
    )


def test_a_key_finds_its_tenant_with_its_limits(connection):
    key = add_tenant(connection, "acme", LIMITS)
    assert find(connection, key) == Tenant("acme", LIMITS)
    assert find(connection, key[:-1] + ("A" if key[-1] != "A" else "B")) is None
    assert (is_registered(connection, "acme"), is_registered(connection, "globex")) == (True, False)


def test_limits_are_read_as_they_are_now(connection, tmp_path):
    add_tenant(connection, "acme", LIMITS)
    other = open_ledger(tmp_path).connection
    other.execute("UPDATE tenant SET limits = '{}'")
    assert read_limits(connection, "acme") == TenantLimits()
    assert read_limits(connection, "nobody") == TenantLimits()


def test_a_key_ends_with_the_next_request_in_every_process(connection, tmp_path):
    key = add_tenant(connection, "acme")
    now_ns = time.time_ns()
    open_ledger(tmp_path).connection.execute("UPDATE tenant_key SET ends_ns = ?", (now_ns,))
    assert find(connection, key, now_ns) is None
    assert find(connection, key, now_ns - 1) is not None


def test_the_ledger_holds_no_key(connection, tmp_path):
    key = add_tenant(connection, "acme")
    assert all(key.encode() not in path.read_bytes() for path in tmp_path.iterdir())
