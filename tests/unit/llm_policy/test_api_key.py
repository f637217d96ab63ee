"""API keys: their form, their digest, and texts that must not show them."""

import hashlib

import pytest

from llm_policy.api_key import contains_key, create_key, digest_of, is_key, without_keys


def test_a_new_key_has_the_form_of_keys_and_no_two_are_equal():
    keys = {create_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(is_key(key) and len(key) == 47 for key in keys)


@pytest.mark.parametrize(
    "change",
    [
        *(str.upper, lambda key: key[:-1], lambda key: key + "A", lambda key: f" {key}", lambda key: key + "\n"),
        *(lambda key: "lsk-" + key[4:], lambda key: key[:10] + "\u0430" + key[11:]),
        *(lambda key: "", lambda key: key * 2),
    ],
)
def test_what_only_looks_like_a_key_is_none(change):
    assert not is_key(change(create_key()))


def test_the_digest_is_sha_256():
    key = create_key()
    assert digest_of(key) == hashlib.sha256(key.encode()).digest()


def test_a_text_with_keys_shows_none_of_them():
    first, second = create_key(), create_key()
    text = f"X-Tenant is {first}, not {second[:30]}, on lsk_a"
    assert contains_key(text)
    assert without_keys(text) == "X-Tenant is lsk_[hidden], not lsk_[hidden], on lsk_a"
    assert not contains_key(without_keys(text))
