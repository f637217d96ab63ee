"""The page that a reader without a session wanted, which the login returns to. Only paths of the board itself are."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.requests import Request

HOME = "/"
LOGIN = "/login"
_MAX_CHARS = 1_000
# Visible ASCII without the backslash: browsers read "/\host" and "/<tab>/host" as "//host", which is another site.
_LOCAL = re.compile(r"/(?:[!-.0-\[\]-~][!-\[\]-~]*)?")


def local_path(text: str) -> str:
    """`text` if it is a path of this site, with its query; `HOME` for anything else, and for the login itself."""
    is_local = len(text) <= _MAX_CHARS and _LOCAL.fullmatch(text) is not None
    return text if is_local and text.partition("?")[0] != LOGIN else HOME


def login_url(request: Request) -> str:
    """The login that returns to the page of `request`."""
    raw_path, query = request.scope.get("raw_path") or b"", request.scope["query_string"]
    wanted = local_path((raw_path.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1"))
    return LOGIN if wanted == HOME else f"{LOGIN}?next={quote(wanted, safe='/')}"
