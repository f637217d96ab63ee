"""JSON pointers (RFC 6901)."""

from __future__ import annotations

import re
from typing import Any

_INDEX = re.compile(r"0|[1-9][0-9]*")


class PointerError(LookupError):
    """The text is not a JSON pointer, or there is no value at it."""


def resolve(document: Any, pointer: str) -> Any:
    """The value at `pointer` in `document`.

    Raises:
        PointerError: the pointer is malformed, or there is no value at it.
    """
    if pointer and not pointer.startswith("/"):
        raise PointerError(f"{pointer!r} is not a JSON pointer: those begin with /")
    value = document
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            raise PointerError(f"nothing at {pointer}")
    return value
