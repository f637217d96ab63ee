"""The key to Triton's administrative APIs."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from llmstack.server.error import ServerStartError

# Nothing that means something on tritonserver's command line or in a header.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,256}")


def random_admin_key() -> str:
    """A key that nobody else knows: the administrative APIs are closed to everybody."""
    return secrets.token_urlsafe(32)


def read_admin_key(path: Path) -> str:
    """The key in the secret file at `path`, without the white space around it.

    Raises:
        ServerStartError: the file can't be read or holds no usable key; the text never quotes it.
    """
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerStartError(f"the admin key file {path} can't be read: {error}", _NEXT_STEP) from None
    if not _KEY.fullmatch(key):
        allowed = "16 to 256 letters, digits and . _ ~ + / - are allowed"
        raise ServerStartError(
            f"the admin key in {path} has {len(key)} characters or others than {allowed}", _NEXT_STEP
        )
    return key


_NEXT_STEP = "write one: openssl rand -hex 32 > FILE"
