"""Verifies webhooks: signature, age, size and envelope."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks import WebhookVerificationError

from llmstack.board.request_body import RequestRejected
from llmstack.events.secret_file import read_secrets

# A cost alert lists up to a thousand requests, each with a client's id of up to 128 characters.
MAX_BODY_BYTES = 1 << 20
_NOT_AN_EVENT = "the body is not a CloudEvents 1.0 event in JSON"


class CloudEvent(BaseModel):
    """The envelope of an event; further attributes are allowed."""

    model_config = ConfigDict(extra="allow")

    specversion: Annotated[str, Field(pattern=r"^1\.0$")]
    id: Annotated[str, Field(min_length=1, max_length=256)]
    source: Annotated[str, Field(min_length=1, max_length=256)]
    type: Annotated[str, Field(min_length=1, max_length=256)]
    time: datetime
    data: dict[str, Any]


class WebhookVerifier:
    """Accepts webhooks that one of the secrets in the file at `secret_path` signed.

    The file is read for each webhook, so secrets can be rotated without a restart.

    Raises:
        WebhookConfigurationError: the file can't be used.
    """

    def __init__(self, secret_path: Path) -> None:
        self._secret_path = secret_path
        read_secrets(secret_path)

    def verify(self, body: bytes, headers: Mapping[str, str]) -> CloudEvent:
        """The event in `body`.

        Raises:
            RequestRejected: the signature is wrong or more than five minutes off, or the body is not an event.
        """
        if len(body) > MAX_BODY_BYTES:
            raise RequestRejected(413, f"the body exceeds {MAX_BODY_BYTES} bytes")
        self._check_signature(body, headers)
        try:
            event = CloudEvent.model_validate_json(body)
        except (ValidationError, RecursionError):
            raise RequestRejected(400, _NOT_AN_EVENT) from None
        if event.id != headers.get("webhook-id"):
            raise RequestRejected(400, "webhook-id is not the event's id")
        return event

    def _check_signature(self, body: bytes, headers: Mapping[str, str]) -> None:
        for webhook in read_secrets(self._secret_path):
            try:
                webhook.verify(body, dict(headers))
            except (WebhookVerificationError, ValueError, UnicodeError, OverflowError):
                continue
            except RecursionError:  # the library parses the body after it has verified it
                raise RequestRejected(400, _NOT_AN_EVENT) from None
            return
        raise RequestRejected(401, "the signature is not valid or its timestamp is more than five minutes off")
