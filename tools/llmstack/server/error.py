"""The error of a server that can't start. Standard library only: see `binary`."""

from __future__ import annotations


class ServerStartError(RuntimeError):
    """The server can't start, for the reason in the text; `next_step` is the operator's remedy."""

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.next_step = next_step
