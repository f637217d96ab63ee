"""The secrets that sign what goes to one webhook.

The file holds one secret a line, the newest first. While a receiver changes over, both the new and the old one are in
it and every attempt is signed with each. The file is read again when it changes, so a rotation needs no restart.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timezone
from pathlib import Path

from standardwebhooks import Webhook

from llmstack.events.webhook_error import WebhookConfigurationError

PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # what Standard Webhooks asks for
MAX_SECRETS = 8
_MAX_FILE_BYTES = 65_536
_UNPADDED_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_NEXT_STEP = 'write one, and give it to the receiver: echo "whsec_$(openssl rand -base64 32)" > FILE'

_Fingerprint = tuple[int, int, int]


class SecretFile:
    """The secrets in the file at `path`; neither its repr nor its errors show one.

    Raises:
        WebhookConfigurationError: the file can't be read or holds something that is no secret.
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
            WebhookConfigurationError: it can't be used; once for each change. What was read before stays in use.
        """
        fingerprint = _fingerprint(self.path)
        if fingerprint == self._fingerprint and self._webhooks:
            return
        self._fingerprint = fingerprint
        self._webhooks = read_secrets(self.path)

    def signature(self, event_id: str, timestamp_s: int, body: bytes) -> str:
        """The value of `webhook-signature`: one signature by each secret, with a space between."""
        moment = datetime.fromtimestamp(timestamp_s, timezone.utc)
        text = body.decode()
        return " ".join(webhook.sign(event_id, moment, text) for webhook in self._webhooks)


def read_secrets(path: Path) -> list[Webhook]:
    """A signer for each secret in the file at `path`.

    Raises:
        WebhookConfigurationError: see SecretFile.
    """
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_FILE_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
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
    """The bytes behind base64, with or without its padding; None when it isn't that.

    The library drops characters that are no base64 and signs with what is left, so a typing error would only show
    at the receiver.
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
