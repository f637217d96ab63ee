"""How whoever owns the server is made to leave off."""

from __future__ import annotations


class Preempted(Exception):
    """What the server's thread is at had better end at once: somebody else is to have the server."""
