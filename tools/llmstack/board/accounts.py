"""Accounts of reviewers and readers. The board stores only hashes of their tokens."""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from typing import NamedTuple

REVIEWER, READER = "reviewer", "reader"
# 256 random bits can't be guessed, so a plain hash is enough to store.
_TOKEN_BYTES = 32
_NAME = re.compile(r"[\w][\w .@+-]{0,63}")


class AccountError(ValueError):
    """The account can't be created or does not exist; the text says why."""


class Account(NamedTuple):
    """One reviewer or reader."""

    name: str
    kind: str
    created_ns: int
    removed_ns: int | None


def add_account(connection: sqlite3.Connection, name: str, kind: str, now_ns: int) -> str:
    """Create an account and return its token, which is not stored.

    Raises:
        AccountError: the name is taken or not valid.
    """
    if not _NAME.fullmatch(name):
        raise AccountError("a name has 1 to 64 letters, digits, spaces or . _ @ + - and starts with a letter or digit")
    token = f"llmstack_{kind}_{secrets.token_urlsafe(_TOKEN_BYTES)}"
    try:
        connection.execute(
            "INSERT INTO account (name, kind, token_sha256, created_ns) VALUES (?, ?, ?, ?)",
            (name, kind, token_hash(token), now_ns),
        )
    except sqlite3.IntegrityError:
        raise AccountError(f"{name!r} is taken; names are never reused") from None
    return token


def remove_account(connection: sqlite3.Connection, name: str, now_ns: int) -> None:
    """Remove an account, end its sessions and withdraw its sign-offs, which stay on record.

    Raises:
        AccountError: no account has this name.
    """
    cursor = connection.execute(
        "UPDATE account SET removed_ns = ? WHERE name = ? AND removed_ns IS NULL", (now_ns, name)
    )
    if not cursor.rowcount:
        raise AccountError(f"there is no account {name!r}")
    connection.execute("DELETE FROM session WHERE reviewer = ?", (name,))
    connection.execute(
        "UPDATE sign_off SET withdrawn_ns = ? WHERE reviewer = ? AND withdrawn_ns IS NULL", (now_ns, name)
    )


def list_accounts(connection: sqlite3.Connection) -> list[Account]:
    """All accounts by name, including removed ones."""
    rows = connection.execute("SELECT name, kind, created_ns, removed_ns FROM account ORDER BY name")
    return [Account(*row) for row in rows]


def find_account(connection: sqlite3.Connection, token: str) -> Account | None:
    """The account with this token. The look-up by hash keeps its duration independent of the token's content."""
    row = connection.execute(
        "SELECT name, kind, created_ns, removed_ns FROM account WHERE token_sha256 = ? AND removed_ns IS NULL",
        (token_hash(token),),
    ).fetchone()
    return Account(*row) if row else None


def token_hash(token: str) -> str:
    """The hash under which a token is stored."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
