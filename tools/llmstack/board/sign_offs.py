"""Sign-offs: a reviewer approves one engine and one manifest, and can withdraw the approval."""

from __future__ import annotations

import re
import sqlite3
from typing import NamedTuple

MAX_COMMENT_CHARS = 2_000
NEVER_NS = -1  # before every sign-off
_WITHDRAW = (
    "UPDATE sign_off SET withdrawn_ns = ? "
    "WHERE reviewer = ? AND engine_hash = ? AND manifest_hash = ? AND withdrawn_ns IS NULL"
)
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class SignOffError(ValueError):
    """The sign-off can't be given or withdrawn; the text says why."""


class ReleaseHashes(NamedTuple):
    """What a sign-off is for."""

    engine_hash: str
    manifest_hash: str


class SignOff(NamedTuple):
    """One sign-off, in force or withdrawn. Times are Unix time in nanoseconds."""

    reviewer: str
    engine_hash: str
    manifest_hash: str
    comment: str
    signed_ns: int
    withdrawn_ns: int | None
    evidence_hash: str  # of the evidence at that time

    def is_in_force(self, rolled_back_ns: int = NEVER_NS) -> bool:
        """Whether it counts: it is not withdrawn, and was given after the release's last rollback."""
        return self.withdrawn_ns is None and self.signed_ns > rolled_back_ns


def sign(
    connection: sqlite3.Connection,
    reviewer: str,
    hashes: ReleaseHashes,
    evidence_hash: str,
    comment: str,
    now_ns: int,
    rolled_back_ns: int = NEVER_NS,
) -> None:
    """Sign off exactly these hashes, based on this evidence.

    A sign-off of the same reviewer from before `rolled_back_ns`, the release's last rollback, is withdrawn.

    Raises:
        SignOffError: the reviewer has signed off already, the comment is too long, or a hash is malformed.
    """
    check_hashes(*hashes)
    if len(comment) > MAX_COMMENT_CHARS:
        raise SignOffError(f"the comment has {len(comment)} characters, {MAX_COMMENT_CHARS} are allowed")
    connection.execute(_WITHDRAW + " AND signed_ns <= ?", (now_ns, reviewer, *hashes, rolled_back_ns))
    try:
        connection.execute(
            "INSERT INTO sign_off (reviewer, engine_hash, manifest_hash, evidence_hash, comment, signed_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (reviewer, *hashes, evidence_hash, comment.strip(), now_ns),
        )
    except sqlite3.IntegrityError:
        raise SignOffError("you have already signed off this engine and manifest") from None


def withdraw(connection: sqlite3.Connection, reviewer: str, hashes: ReleaseHashes, now_ns: int) -> None:
    """Withdraw a sign-off. It stays on record.

    Raises:
        SignOffError: the reviewer has no sign-off in force.
    """
    cursor = connection.execute(_WITHDRAW, (now_ns, reviewer, *hashes))
    if not cursor.rowcount:
        raise SignOffError("you have no sign-off in force for this engine and manifest")


def list_sign_offs(connection: sqlite3.Connection, hashes: ReleaseHashes) -> list[SignOff]:
    """Every sign-off for exactly these hashes, including withdrawn ones, oldest first.

    Raises:
        SignOffError: a hash is malformed.
    """
    check_hashes(*hashes)
    rows = connection.execute(
        "SELECT reviewer, engine_hash, manifest_hash, comment, signed_ns, withdrawn_ns, evidence_hash FROM sign_off "
        "WHERE engine_hash = ? AND manifest_hash = ? ORDER BY id",
        hashes,
    )
    return [SignOff(*row) for row in rows]


def check_hashes(*hashes: str) -> None:
    """Check the form of hashes.

    Raises:
        SignOffError: a hash is malformed.
    """
    for text in hashes:
        if not _HASH.fullmatch(text):
            raise SignOffError("a hash is sha256: and 64 hexadecimal digits")
