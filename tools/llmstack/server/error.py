"""What keeps a server from starting."""

from __future__ import annotations


class ServerStartError(RuntimeError):
    """The server can't start; the text says why, `next_step` says what to do about it."""

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.next_step = next_step
