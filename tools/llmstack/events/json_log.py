"""A structured log of JSON lines: one for each delivery attempt and for each problem that stops a worker.

Callers never log secrets, URL paths or bodies.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import structlog


def json_log(file: TextIO | None = None) -> Any:
    """A structlog logger that writes JSON lines to `file`, standard error by default."""
    return structlog.wrap_logger(
        structlog.WriteLogger(file or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    )
