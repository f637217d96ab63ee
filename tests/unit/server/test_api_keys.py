"""Whether a server requires API keys."""

import pytest

from llmstack.server.api_keys import is_loopback, requires_keys

LOOPBACK = ["127.0.0.1", "127.8.0.3", "::1", "localhost"]
PUBLIC = ["0.0.0.0", "::", "10.0.0.1", "fe80::1%lo", "", "no-such-host.invalid", "a" * 70]


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_loopback_address_requires_no_key_by_default(host):
    assert is_loopback(host)
    assert not requires_keys(None, host)
    assert requires_keys(True, host)


@pytest.mark.parametrize("host", PUBLIC)
def test_any_other_address_requires_keys_unless_they_are_turned_off(host):
    assert not is_loopback(host)
    assert requires_keys(None, host)
    assert not requires_keys(False, host)
