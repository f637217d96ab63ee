"""What a check found wrong with the server."""

from __future__ import annotations

from typing import NamedTuple


class Outage(NamedTuple):
    """Why the service can't serve. Loading `models` anew may end it; without any, the server has to be restarted."""

    reason: str
    models: tuple[str, ...] = ()
