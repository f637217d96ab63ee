"""Login sessions of reviewers."""

from __future__ import annotations

import secrets
import sqlite3
from typing import NamedTuple

from llmstack.board.accounts import token_hash

LIFE_S = 8 * 3_600
MAX_SESSIONS_PER_REVIEWER = 10


class Session(NamedTuple):
    """One reviewer in one browser. Each form must return `csrf_token`."""

    reviewer: str
    csrf_token: str


def open_session(connection: sqlite3.Connection, reviewer: str, now_ns: int) -> str:
    """Log `reviewer` in and return the session id for the cookie. The oldest session ends when there are too many."""
    session_id = secrets.token_urlsafe(32)
    connection.execute("DELETE FROM session WHERE expires_ns <= ?", (now_ns,))
    connection.execute(
        "DELETE FROM session WHERE id_sha256 IN "
        "(SELECT id_sha256 FROM session WHERE reviewer = ? ORDER BY expires_ns DESC LIMIT -1 OFFSET ?)",
        (reviewer, MAX_SESSIONS_PER_REVIEWER - 1),
    )
    connection.execute(
        "INSERT INTO session (id_sha256, reviewer, csrf_token, expires_ns) VALUES (?, ?, ?, ?)",
        (token_hash(session_id), reviewer, secrets.token_urlsafe(32), now_ns + LIFE_S * 1_000_000_000),
    )
    return session_id


def find_session(connection: sqlite3.Connection, session_id: str, now_ns: int) -> Session | None:
    """The session of a cookie; None when it is unknown or has expired."""
    row = connection.execute(
        "SELECT reviewer, csrf_token FROM session WHERE id_sha256 = ? AND expires_ns > ?",
        (token_hash(session_id), now_ns),
    ).fetchone()
    return Session(*row) if row else None


def close_session(connection: sqlite3.Connection, session_id: str) -> None:
    """Log out."""
    connection.execute("DELETE FROM session WHERE id_sha256 = ?", (token_hash(session_id),))
