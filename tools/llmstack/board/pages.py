"""What each page shows, as templates take it: plain values, escaped by Jinja wherever they stand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm_policy.ledger.alerts import RULES
from llmstack.board.alert_summary import MAX_COUNTED, PAGE_SIZE, bars, count_windows, open_error_rules, window_summaries
from llmstack.board.candidates import Candidate
from llmstack.board.history import read_history
from llmstack.board.promotion_check import find_missing, needs
from llmstack.board.run_record import MAX_ROWS
from llmstack.board.sessions import Session
from llmstack.board.sign_offs import MAX_COMMENT_CHARS, SignOff, sign_offs

_TEMPLATES = Path(__file__).parent / "templates"
_UNITS = {"queue_delay": "µs", "cost": "USD"}
_NUM_LATEST = 5


class ReleaseRow(NamedTuple):
    """A release in the list: who signed, and what it lacks."""

    candidate: Candidate
    sign_offs: list[SignOff]
    missing: list[str]


def environment() -> Environment:
    """Templates that escape everything and know no undefined name."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters = (moment, clock, short, instance, figure, flat, sections, without)
    made.filters |= {each.__name__: each for each in filters}
    made.globals |= {"units": _UNITS, "rules": RULES, "max_rows": MAX_ROWS, "needs": needs}
    return made


def moment(time_ns: int) -> str:
    """Unix time in nanoseconds as UTC to the second."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return f"{time_ns} ns"


def clock(text: str) -> str:
    """A time in ISO 8601 as UTC to the second; any other text as it is."""
    try:
        return moment(int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()) * 1_000_000_000)
    except (ValueError, OverflowError):
        return text


def short(text: str) -> str:
    """Enough of a hash to tell two apart; the whole one stands in the page's title attribute."""
    return text.removeprefix("sha256:")[:12]


def instance(source: str) -> str:
    """Which installation an event's CloudEvents source names."""
    return source.removeprefix("/llmstack/")


def figure(value: Any) -> str:
    """A number with its thousands apart, yes or no, nothing as a dash, anything else as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "—"
    if isinstance(value, int | float) and value == value and abs(value) < 1e15:
        return f"{int(value):,}" if value == int(value) else f"{value:,.9f}".rstrip("0")
    if isinstance(value, list):
        return "; ".join(figure(each) for each in value) or "—"
    return str(value)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def without(tree: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """All but these keys."""
    return {key: value for key, value in tree.items() if key not in keys}


def sections(tree: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """A manifest's leaves by the table that they stand in, however deep; those of none under `general`."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for key, value in flat(tree):
        section, _, name = key.rpartition(".")
        found.setdefault(section or "general", []).append((name, value))
    return found


def overview(
    connection: sqlite3.Connection, candidates: list[Candidate], session: Session, num_required: int, now_ns: int
) -> dict[str, Any]:
    """Each release with its signatures and what it lacks, and what changed lately."""
    return {
        "session": session,
        "rows": [_row(connection, candidate, num_required, now_ns) for candidate in candidates],
        "changes": read_history(connection)[0][:_NUM_LATEST],
    }


def release_page(
    connection: sqlite3.Connection, candidate: Candidate, session: Session, num_required: int, now_ns: int
) -> dict[str, Any]:
    """One release with all that is known of it."""
    given = [] if candidate.problem else sign_offs(connection, *candidate.hashes)
    return {
        "session": session,
        "candidate": candidate,
        "missing": _row(connection, candidate, num_required, now_ns).missing,
        "sign_offs": given,
        "has_signed": any(each.reviewer == session.reviewer and each.withdrawn_ns is None for each in given),
        "max_comment_chars": MAX_COMMENT_CHARS,
    }


def alerts_page(connection: sqlite3.Connection, session: Session, page: int, now_ns: int) -> dict[str, Any]:
    """One page of summaries and the chart of the last day. More windows than are counted are paged without an end."""
    num_windows = count_windows(connection)
    last_page = max(1, -(-num_windows // PAGE_SIZE)) if num_windows < MAX_COUNTED else None
    page = max(page, 1) if last_page is None else min(max(page, 1), last_page)
    windows = window_summaries(connection, (page - 1) * PAGE_SIZE)
    chart = bars(connection, now_ns)
    return {
        "session": session,
        "windows": windows,
        "num_windows": num_windows,
        "page": page,
        "last_page": last_page,
        "has_older": len(windows) == PAGE_SIZE and page != last_page,
        "bars": chart,
        "highest": max((sum(bar.num_breaches for bar in chart if bar.x == each.x) for each in chart), default=0),
        "totals": {rule: sum(bar.num_breaches for bar in chart if bar.rule == rule) for rule in RULES},
    }


def history_page(connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
    """Promotions, rollbacks and failures, and events of other kinds."""
    changes, others = read_history(connection)
    return {"session": session, "changes": changes, "others": others}


def _row(connection: sqlite3.Connection, candidate: Candidate, num_required: int, now_ns: int) -> ReleaseRow:
    given = [] if candidate.problem else sign_offs(connection, *candidate.hashes)
    in_force = [each for each in given if each.withdrawn_ns is None]
    open_rules = open_error_rules(connection, candidate.hashes[0], now_ns)
    reviewers = [each.reviewer for each in in_force]
    return ReleaseRow(candidate, in_force, find_missing(candidate, reviewers, num_required, open_rules))
