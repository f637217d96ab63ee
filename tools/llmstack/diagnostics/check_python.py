"""Reports an unsupported Python before a long installation starts. Uses only the standard library."""

from __future__ import annotations

import sys

from llmstack.server.binary import IMAGE_ROOT, find_libpython_dir
from llmstack.server.error import ServerStartError

SUPPORTED = ((3, 10), (3, 12))


def check_python(version: tuple[int, int]) -> str | None:
    """Why the stack can't run on this Python and what to do about it; None when it can."""
    oldest, newest = SUPPORTED
    text = ".".join(map(str, version))
    if not oldest <= version <= newest:
        return f"error: Python {text} is not supported\nnext:  make … PYTHON=python3.12 (or python3.10, python3.11)"
    try:
        if not IMAGE_ROOT.is_dir():
            find_libpython_dir(text)
    except ServerStartError as error:
        return f"error: {error}\nnext:  {error.next_step}"
    return None


if __name__ == "__main__":
    sys.exit(check_python(sys.version_info[:2]))
