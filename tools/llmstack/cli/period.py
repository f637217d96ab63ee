"""The options `--since` and `--until` of commands that read the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated

import typer

from llmstack.cli.terminal import fail
from llmstack.ledger.period import Period

Since = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From this day (UTC).", show_default=False)]
Until = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Up to and including this day (UTC).", show_default=False)
]
_NS_PER_S = 1_000_000_000


def parse_period(since: datetime | None, until: datetime | None) -> Period:
    """The period of both options; exits if `until` is before `since`."""
    if since is not None and until is not None and until < since:
        fail(f"--until {until:%Y-%m-%d} is before --since {since:%Y-%m-%d}", "swap the two dates")
    first, last = Period()
    return Period(
        first if since is None else utc_ns(since), last if until is None else utc_ns(until + timedelta(days=1))
    )


def utc_ns(day: datetime) -> int:
    """The Unix time in nanoseconds at which the UTC day begins."""
    return int(day.replace(tzinfo=timezone.utc).timestamp()) * _NS_PER_S
