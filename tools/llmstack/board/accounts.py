"""Who may sign and who may only read, by tokens of which the board keeps hashes alone."""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from typing import NamedTuple

REVIEWER, READER = "reviewer", "reader"
# 256 random bits: nobody guesses one, so that a plain hash is enough to keep.
_TOKEN_BYTES = 32
_NAME = re.compile(r"[\w][\w .@+-]{0,63}")


class AccountError(ValueError):
    """The account can't be made or isn't there; the text says why."""


class Account(NamedTuple):
    """One reviewer or reader."""

    name: str
    kind: str
    created_ns: int
    removed_ns: int | None


def add_account(connection: sqlite3.Connection, name: str, kind: str, now_ns: int) -> str:
    """Make an account; its token, which is shown this once.

    Raises:
        AccountError: the name is taken or none.
    """
    if not _NAME.fullmatch(name):
        raise AccountError("a name has 1 to 64 letters, digits, blanks and . _ @ + -, and begins with one of the first")
    token = f"llmstack_{kind}_{secrets.token_urlsafe(_TOKEN_BYTES)}"
    try:
        connection.execute(
            "INSERT INTO account (name, kind, token_sha256, created_ns) VALUES (?, ?, ?, ?)",
            (name, kind, token_hash(token), now_ns),
        )
    except sqlite3.IntegrityError:
        raise AccountError(f"{name!r} was given to somebody before") from None
    return token


def remove_account(connection: sqlite3.Connection, name: str, now_ns: int) -> None:
    """End an account with its sessions; what it signed stays on record, and is withdrawn.

    Raises:
        AccountError: there is none of this name.
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
    """All that ever were, by name."""
    rows = connection.execute("SELECT name, kind, created_ns, removed_ns FROM account ORDER BY name")
    return [Account(*row) for row in rows]


def find_account(connection: sqlite3.Connection, token: str) -> Account | None:
    """Whose token this is. Looked up by its hash, so that no time tells how much of a guess was right."""
    row = connection.execute(
        "SELECT name, kind, created_ns, removed_ns FROM account WHERE token_sha256 = ? AND removed_ns IS NULL",
        (token_hash(token),),
    ).fetchone()
    return Account(*row) if row else None


def token_hash(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
