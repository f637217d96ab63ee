"""The secrets that sign the events for one webhook.

The file holds one secret per line, the newest first. During a rotation it holds the new and the old secret, and every
attempt is signed with each. The file is read again when it changes, so a rotation needs no restart.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timezone
from pathlib import Path

from standardwebhooks import Webhook

from llmstack.server.error import ServerStartError

PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # as Standard Webhooks requires
MAX_SECRETS = 8
_MAX_FILE_BYTES = 65_536
_UNPADDED_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_NEXT_STEP = 'write one, and give it to the receiver: echo "whsec_$(openssl rand -base64 32)" > FILE'

_Fingerprint = tuple[int, int, int]


class WebhookConfigurationError(ServerStartError):
    """A webhook's URL or secret can't be used. The text states which one and why, and never quotes a secret."""


class SecretFile:
    """The secrets in the file at `path`; neither its repr nor its errors show one.

    Raises:
        WebhookConfigurationError: the file can't be read or a line is not a valid secret.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fingerprint: _Fingerprint | None = None
        self._webhooks: list[Webhook] = []
        self.refresh()

    def __repr__(self) -> str:
        return f"SecretFile({str(self.path)!r}, {len(self._webhooks)} secrets)"

    def refresh(self) -> None:
        """Read the file again if it changed.

        Raises:
            WebhookConfigurationError: the file can't be used; raised once per change. The previous secrets stay in use.
        """
        fingerprint = _fingerprint(self.path)
        if fingerprint == self._fingerprint and self._webhooks:
            return
        self._fingerprint = fingerprint
        self._webhooks = read_secrets(self.path)

    def signature(self, event_id: str, timestamp_s: int, body: bytes) -> str:
        """The value of `webhook-signature`: one signature per secret, separated by spaces."""
        timestamp = datetime.fromtimestamp(timestamp_s, timezone.utc)
        text = body.decode()
        return " ".join(webhook.sign(event_id, timestamp, text) for webhook in self._webhooks)


def read_secrets(path: Path) -> list[Webhook]:
    """A signer for each secret in the file at `path`.

    Raises:
        WebhookConfigurationError: see SecretFile.
    """
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_FILE_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WebhookConfigurationError(f"the webhook secret file {path} can't be read: {reason}", _NEXT_STEP) from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(numbered) <= MAX_SECRETS:
        raise WebhookConfigurationError(
            f"the webhook secret file {path} holds {len(numbered)} secrets, 1 to {MAX_SECRETS} are allowed", _NEXT_STEP
        )
    return [_signer(text, f"{path}, line {number}") for number, text in numbered]


def _signer(text: str, place: str) -> Webhook:
    secret = _decoded(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if secret is None or not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise WebhookConfigurationError(
            f"{place}: a webhook secret is {PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes",
            _NEXT_STEP,
        )
    return Webhook(secret)


def _decoded(text: str) -> bytes | None:
    """Decode base64 with or without padding; None when it is invalid.

    The library ignores characters outside base64 and signs with the rest, so a typing error would only show at the
    receiver.
    """
    if not _UNPADDED_BASE64.fullmatch(text):
        return None
    unpadded = text.rstrip("=")
    try:
        return base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
    except binascii.Error:
        return None


def _fingerprint(path: Path) -> _Fingerprint | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
