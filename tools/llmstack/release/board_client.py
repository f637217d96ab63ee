"""Asks the readiness board: who signed for a release, and what else it knows of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from llm_policy.release.release import Release

TIMEOUT_S = 10.0


class BoardError(RuntimeError):
    """The board can't be asked; the text says why."""


class BoardAccess(NamedTuple):
    """The board's URL and the file with the token of one who may read."""

    url: str
    token_file: Path


def reviewers(access: BoardAccess, release: Release) -> list[str]:
    """Who signed for exactly this engine hash and manifest hash, each once.

    Raises:
        BoardError: no answer, or none that makes sense.
    """
    hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    return sorted({str(each["reviewer"]) for each in ask(access, "signoffs", hashes, ("reviewer",))})


def ask(access: BoardAccess, what: str, params: Mapping[str, str], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The list that `GET /api/<what>` answers with; each of its members has `keys`.

    Raises:
        BoardError: no answer, or none that makes sense.
    """
    try:
        token = access.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"the board's token can't be read: {error}") from None
    url, headers = f"{access.url.rstrip('/')}/api/{what}", {"authorization": f"Bearer {token}"}
    try:
        answer = httpx.get(url, params=dict(params), headers=headers, timeout=TIMEOUT_S)
        if answer.status_code != httpx.codes.OK:
            raise BoardError(f"the board at {access.url} answers with status {answer.status_code} for {what}")
        return [{key: each[key] for key in keys} for each in answer.json()[what]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise BoardError(f"the board at {access.url} can't be asked: {type(error).__name__}: {error}") from None
