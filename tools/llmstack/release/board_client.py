"""Client of the readiness board: who signed a release off, and which alerts the board has received."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from llm_policy.release.release import Release

TIMEOUT_S = 10.0


class BoardError(RuntimeError):
    """The board does not answer, or not as expected; the text says why."""


class BoardAccess(NamedTuple):
    """The board's URL and the file with a reader's token."""

    url: str
    token_file: Path


def fetch_reviewers(access: BoardAccess, release: Release) -> list[str]:
    """The names of those who signed exactly this engine hash and manifest hash, without duplicates.

    Raises:
        BoardError: the board does not answer, or not as expected.
    """
    hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    return sorted({str(sign_off["reviewer"]) for sign_off in fetch_list(access, "signoffs", hashes, ("reviewer",))})


def fetch_list(
    access: BoardAccess, name: str, params: Mapping[str, str], keys: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The list `name` in the answer of `GET /api/<name>`, reduced to `keys`.

    Raises:
        BoardError: the board does not answer, or not as expected.
    """
    try:
        token = access.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"the board's token can't be read: {error}") from None
    url, headers = f"{access.url.rstrip('/')}/api/{name}", {"authorization": f"Bearer {token}"}
    try:
        answer = httpx.get(url, params=dict(params), headers=headers, timeout=TIMEOUT_S)
        if answer.status_code != httpx.codes.OK:
            raise BoardError(f"the board at {access.url} answers with status {answer.status_code} for {name}")
        return [{key: item[key] for key in keys} for item in answer.json()[name]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise BoardError(f"the board at {access.url} can't be read: {type(error).__name__}: {error}") from None
