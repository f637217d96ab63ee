"""Signatures: a reviewer vouches for one engine and one manifest, and may take it back."""

from __future__ import annotations

import re
import sqlite3
from typing import NamedTuple

MAX_COMMENT_CHARS = 2_000
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class SignOffError(ValueError):
    """The signature can't be given or taken back; the text says why."""


class SignOff(NamedTuple):
    """One signature, in force or withdrawn; times are Unix time in nanoseconds."""

    reviewer: str
    engine_hash: str
    manifest_hash: str
    comment: str
    signed_ns: int
    withdrawn_ns: int | None
    evidence_hash: str  # of what was measured by then


def sign(
    connection: sqlite3.Connection,
    reviewer: str,
    engine_hash: str,
    manifest_hash: str,
    evidence_hash: str,
    comment: str,
    now_ns: int,
) -> None:
    """Sign for exactly these two hashes, having seen this evidence.

    Raises:
        SignOffError: it is signed already, the comment is too long, or these are no hashes.
    """
    check_hashes(engine_hash, manifest_hash)
    if len(comment) > MAX_COMMENT_CHARS:
        raise SignOffError(f"the comment has {len(comment)} characters, {MAX_COMMENT_CHARS} are allowed")
    try:
        connection.execute(
            "INSERT INTO sign_off (reviewer, engine_hash, manifest_hash, evidence_hash, comment, signed_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (reviewer, engine_hash, manifest_hash, evidence_hash, comment.strip(), now_ns),
        )
    except sqlite3.IntegrityError:
        raise SignOffError("you have signed for this engine and manifest already") from None


def withdraw(connection: sqlite3.Connection, reviewer: str, engine_hash: str, manifest_hash: str, now_ns: int) -> None:
    """Take a signature back; it stays on record.

    Raises:
        SignOffError: there is none in force.
    """
    cursor = connection.execute(
        "UPDATE sign_off SET withdrawn_ns = ? "
        "WHERE reviewer = ? AND engine_hash = ? AND manifest_hash = ? AND withdrawn_ns IS NULL",
        (now_ns, reviewer, engine_hash, manifest_hash),
    )
    if not cursor.rowcount:
        raise SignOffError("you have no signature in force for this engine and manifest")


def sign_offs(connection: sqlite3.Connection, engine_hash: str, manifest_hash: str) -> list[SignOff]:
    """Every signature for exactly these hashes, withdrawn ones too, oldest first.

    Raises:
        SignOffError: these are no hashes.
    """
    check_hashes(engine_hash, manifest_hash)
    rows = connection.execute(
        "SELECT reviewer, engine_hash, manifest_hash, comment, signed_ns, withdrawn_ns, evidence_hash FROM sign_off "
        "WHERE engine_hash = ? AND manifest_hash = ? ORDER BY id",
        (engine_hash, manifest_hash),
    )
    return [SignOff(*row) for row in rows]


def check_hashes(*hashes: str) -> None:
    """Let hashes pass.

    Raises:
        SignOffError: one is none.
    """
    for text in hashes:
        if not _HASH.fullmatch(text):
            raise SignOffError("a hash is sha256: and 64 hexadecimal digits")
