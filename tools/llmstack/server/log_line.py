"""The lines of the service as JSON: the parent's, Triton's and the models', each with `time`, `level` and `source`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TextIO

PARENT, TRITON, MODEL = "parent", "triton", "model"
# I1129 12:44:52.061430 24693 model_lifecycle.cc:472] "loading: postprocess:1", in UTC and without a year.
_TRITON_LINE = re.compile(r"([IWEF])(\d\d)(\d\d) (\d\d:\d\d:\d\d\.\d{6}) \d+ (\S+)\] (.*)")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}
_MODEL_ERRORS = ("internal_fault",)


def log_fields(line: str, now: datetime) -> dict[str, Any]:
    """The fields of a line of the server's log; a line without a time of its own has `now`, which is in UTC."""
    fields = {"time": _iso(now), "level": "info"}
    if (event := _json_object(line)) is not None:
        level = "error" if event.get("event") in _MODEL_ERRORS else "info"
        return {**fields, "level": level, "source": MODEL, **event}
    match = _TRITON_LINE.fullmatch(line)
    if match is None:
        return {**fields, "source": TRITON, "message": line}
    level, month, day, clock, place, text = match.groups()
    year = now.year - (int(month) > now.month)  # a line of December that is read in January
    return {
        "time": f"{year}-{month}-{day}T{clock}Z",
        "level": _LEVELS[level],
        "source": TRITON,
        "message": _unquoted(text),
        "at": place,
    }


class JsonLines:
    """A text file whose complete lines go to `file` as JSON lines of the parent; thread-safe."""

    def __init__(
        self, file: TextIO, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc), *, with_canaries: bool
    ) -> None:
        self._file, self._now, self._with_canaries = file, now, with_canaries
        self._partial = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write the parent's text, of which the last line may be incomplete."""
        with self._lock:
            *lines, self._partial = (self._partial + text).split("\n")
            for line in filter(str.strip, lines):
                level = "warning" if line.startswith("WARNING") else "info"
                self._print({"time": _iso(self._now()), "level": level, "source": PARENT, "message": line.strip()})
        return len(text)

    def relay(self, line: str) -> None:
        """Write a line of the server's log; the service's own canary requests only if they are wanted."""
        fields = log_fields(line, self._now())
        if line.strip() and (self._with_canaries or not fields.get("canary")):
            with self._lock:
                self._print(fields)

    def flush(self) -> None:
        """Every line is flushed when it is written."""

    def _print(self, fields: dict[str, Any]) -> None:
        print(json.dumps(fields, ensure_ascii=False), file=self._file, flush=True)


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _unquoted(text: str) -> str:
    """The text of an entry, which newer servers quote."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
