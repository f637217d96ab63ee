"""Reads request bodies up to a size limit."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

MAX_FORM_BYTES, MAX_FORM_FIELDS = 64 << 10, 20
FORM_TYPE = "application/x-www-form-urlencoded"


class RequestRejected(Exception):
    """The board rejects a request with the HTTP `status`. The text says why and quotes nothing from the request."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        RequestRejected: 413 as soon as the body exceeds `max_bytes`, 408 if the connection ends before the body does.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise RequestRejected(413, f"the body exceeds {max_bytes} bytes")
    except ClientDisconnect:
        raise RequestRejected(408, "the body is incomplete") from None
    return bytes(body)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. The last of repeated fields counts.

    Raises:
        RequestRejected: the body is not a form or is too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise RequestRejected(415, f"the content type of a form is {FORM_TYPE}")
    body = await read_body(request, MAX_FORM_BYTES)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))
    except ValueError:
        raise RequestRejected(400, "the form is malformed") from None
