"""Asks the readiness board who signed for a release."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import httpx

from llm_policy.release import Release

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
    try:
        token = access.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BoardError(f"the board's token can't be read: {error}") from None
    hashes = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    try:
        answer = httpx.get(
            access.url.rstrip("/") + "/api/signoffs",
            params=hashes,
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
        )
        if answer.status_code != httpx.codes.OK:
            raise BoardError(f"the board at {access.url} answers with status {answer.status_code}")
        return sorted({str(each["reviewer"]) for each in answer.json()["signoffs"]})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise BoardError(f"the board at {access.url} can't be asked: {type(error).__name__}: {error}") from None
