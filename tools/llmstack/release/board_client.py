"""Client of the readiness board: who signed a release off, and which alerts the board has received."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from llm_policy.release.release import Release
from llmstack.release.change import ReleaseRef
from llmstack.release.last_rollback import Rollback

TIMEOUT_S = 10.0


class BoardError(RuntimeError):
    """The board does not answer, or not as expected; the text says why."""


class BoardAccess(NamedTuple):
    """The board's URL and the file with a reader's token."""

    url: str
    token_file: Path


class ReceivedSignOff(NamedTuple):
    """One sign-off in force on the board; `signed_ns` is Unix time."""

    reviewer: str
    signed_ns: int


class ReceivedSignOffs(NamedTuple):
    """The sign-offs of one release, and its last rollback as far as the board knows it."""

    sign_offs: tuple[ReceivedSignOff, ...]
    rollback: Rollback | None = None

    def since(self, rollback: Rollback | None) -> list[str]:
        """The names of those who signed after `rollback`, sorted, without duplicates."""
        begin_ns = rollback.time_ns if rollback else -1
        return sorted({each.reviewer for each in self.sign_offs if each.signed_ns > begin_ns})


def fetch_sign_offs(access: BoardAccess, release: Release) -> ReceivedSignOffs:
    """The sign-offs in force for exactly this engine hash and manifest hash.

    Raises:
        BoardError: the board does not answer, or not as expected.
    """
    hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    document = _fetch(access, "signoffs", hashes)
    try:
        sign_offs = [ReceivedSignOff(str(each["reviewer"]), int(each["signed_ns"])) for each in document["signoffs"]]
        found = document.get("rolled_back")
        last = None
        if found is not None:
            last = Rollback(ReleaseRef("", *hashes.values()), int(found["time_ns"]), str(found["cause"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(access, error) from None
    return ReceivedSignOffs(tuple(sign_offs), last)


def fetch_list(
    access: BoardAccess, name: str, params: Mapping[str, str], keys: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The list `name` in the answer of `GET /api/<name>`, reduced to `keys`.

    Raises:
        BoardError: the board does not answer, or not as expected.
    """
    try:
        return [{key: item[key] for key in keys} for item in _fetch(access, name, params)[name]]
    except (KeyError, TypeError) as error:
        raise _unreadable(access, error) from None


def _fetch(access: BoardAccess, name: str, params: Mapping[str, str]) -> dict[str, Any]:
    """The document of `GET /api/<name>`."""
    try:
        token = access.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"the board's token can't be read: {error}") from None
    url, headers = f"{access.url.rstrip('/')}/api/{name}", {"authorization": f"Bearer {token}"}
    try:
        answer = httpx.get(url, params=dict(params), headers=headers, timeout=TIMEOUT_S)
        if answer.status_code != httpx.codes.OK:
            raise BoardError(f"the board at {access.url} answers with status {answer.status_code} for {name}")
        document = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _unreadable(access, error) from None
    if not isinstance(document, dict):
        raise BoardError(f"the board at {access.url} can't be read: its answer for {name} is no JSON object")
    return document


def _unreadable(access: BoardAccess, error: Exception) -> BoardError:
    return BoardError(f"the board at {access.url} can't be read: {type(error).__name__}: {error}")
