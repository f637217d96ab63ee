"""Says in a second what would otherwise fail after a long installation. Needs nothing but the standard library."""

from __future__ import annotations

import sys

from llmstack.server.binary import IMAGE_ROOT, find_libpython_dir
from llmstack.server.error import ServerStartError

SUPPORTED = ((3, 10), (3, 12))


def check_python(version: tuple[int, int]) -> str | None:
    """What keeps this Python from running the stack, and what to do; None when nothing does."""
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
