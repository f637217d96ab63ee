"""API keys of tenants: `lsk_` and 43 characters, which encode 256 random bits. Only their digests are stored."""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIX = "lsk_"
_RANDOM_BYTES = 32
_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)
# Also a key that was cut off.
_PART = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{16,}}", re.ASCII)


def create_key() -> str:
    """A new random key."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def is_key(text: str) -> bool:
    """Whether `text` has the form of a key."""
    return _KEY.fullmatch(text) is not None


def contains_key(text: str) -> bool:
    """Whether `text` contains a key, or most of one."""
    return PREFIX in text and _PART.search(text) is not None


def without_keys(text: str) -> str:
    """`text` with `lsk_[hidden]` in place of each key."""
    return _PART.sub(f"{PREFIX}[hidden]", text) if PREFIX in text else text


def digest_of(key: str) -> bytes:
    """The 32 bytes under which the key is stored: SHA-256. A random key of 256 bits needs no salt and no slow hash."""
    return hashlib.sha256(key.encode()).digest()
