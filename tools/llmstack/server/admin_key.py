"""The key to Triton's administrative APIs."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from llmstack.server.error import ServerStartError

# Without characters that are special on tritonserver's command line or in a header.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,256}")


def random_admin_key() -> str:
    """A secret key, which closes the administrative APIs to every client."""
    return secrets.token_urlsafe(32)


def read_admin_key(path: Path) -> str:
    """The key in the secret file at `path`, without surrounding white space.

    Raises:
        ServerStartError: the file can't be read or holds no valid key; the text never quotes the key.
    """
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerStartError(f"the admin key file {path} can't be read: {error}", _NEXT_STEP) from None
    if not _KEY.fullmatch(key):
        allowed = "16 to 256 letters, digits and . _ ~ + / - are allowed"
        raise ServerStartError(
            f"the admin key in {path} is not valid: it has {len(key)} characters; {allowed}", _NEXT_STEP
        )
    return key


_NEXT_STEP = "write a key: openssl rand -hex 32 > FILE"
