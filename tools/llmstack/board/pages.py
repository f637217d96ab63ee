"""What each page shows, as templates take it: plain values, escaped by Jinja wherever they stand."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm_policy.alerts import RULES
from llmstack.board.alert_summary import PAGE_SIZE, bars, count_windows, window_summaries
from llmstack.board.candidates import Candidate
from llmstack.board.history import changes
from llmstack.board.sessions import Session
from llmstack.board.sign_offs import MAX_COMMENT_CHARS, SignOff, sign_offs

_TEMPLATES = Path(__file__).parent / "templates"
_UNITS = {"queue_delay": "µs", "cost": "USD", "schema_violation": "", "engine_unhealthy": ""}


def environment() -> Environment:
    """Templates that escape everything and know no undefined name."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"moment": moment, "short": short_hash}
    made.globals |= {"units": _UNITS, "rules": RULES}
    return made


def moment(time_ns: int) -> str:
    """Unix time in nanoseconds as UTC to the second."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return f"{time_ns} ns"


def short_hash(text: str) -> str:
    """Enough of a hash to tell two apart; the whole one stands in the page's title attribute."""
    return text.removeprefix("sha256:")[:12]


def overview(connection: sqlite3.Connection, candidates: list[Candidate], session: Session) -> dict[str, Any]:
    """Each release with its signatures, and what changed lately."""
    return {
        "session": session,
        "candidates": [(candidate, in_force(connection, candidate)) for candidate in candidates],
        "changes": changes(connection)[:5],
    }


def release_page(connection: sqlite3.Connection, candidate: Candidate, session: Session) -> dict[str, Any]:
    """One release with all that is known of it."""
    given = [] if candidate.problem else sign_offs(connection, *candidate.hashes)
    return {
        "session": session,
        "candidate": candidate,
        "sign_offs": given,
        "has_signed": any(each.reviewer == session.reviewer and each.withdrawn_ns is None for each in given),
        "max_comment_chars": MAX_COMMENT_CHARS,
    }


def alerts_page(connection: sqlite3.Connection, session: Session, page: int, now_ns: int) -> dict[str, Any]:
    """One page of summaries and the chart of the last day."""
    num_windows = count_windows(connection)
    last_page = max(1, -(-num_windows // PAGE_SIZE))
    page = min(max(page, 1), last_page)
    chart = bars(connection, now_ns)
    return {
        "session": session,
        "windows": window_summaries(connection, (page - 1) * PAGE_SIZE),
        "num_windows": num_windows,
        "page": page,
        "last_page": last_page,
        "bars": chart,
        "totals": {rule: sum(bar.num_breaches for bar in chart if bar.rule == rule) for rule in RULES},
    }


def history_page(connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
    """Promotions and rollbacks."""
    return {"session": session, "changes": changes(connection)}


def in_force(connection: sqlite3.Connection, candidate: Candidate) -> list[SignOff]:
    """The signatures that count."""
    if candidate.problem:
        return []
    return [each for each in sign_offs(connection, *candidate.hashes) if each.withdrawn_ns is None]
