"""Bodies of requests, read up to a bound."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from llmstack.board.inbox import Refusal

MAX_FORM_BYTES, MAX_FORM_FIELDS = 64 << 10, 20
FORM_TYPE = "application/x-www-form-urlencoded"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413 when it is longer, as soon as that is known.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise Refusal(413, f"a body may have {max_bytes} bytes here")
    return bytes(body)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; of a field that comes twice the last.

    Raises:
        Refusal: it is no form, or too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise Refusal(415, f"a form is sent as {FORM_TYPE}")
    body = await read_body(request, MAX_FORM_BYTES)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))
    except ValueError:
        raise Refusal(400, "the form can't be read") from None
