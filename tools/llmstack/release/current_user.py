"""Who runs this process."""

from __future__ import annotations

import os
import pwd
import socket


def account() -> str:
    """`user@host`, by the process's real user id: the environment may say anything."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
