"""The template values of each page. They are plain values; Jinja escapes them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm_policy.ledger.alerts import RULES
from llmstack.board.alert_summary import (
    MAX_COUNTED,
    PAGE_SIZE,
    count_windows,
    make_chart,
    open_error_rules,
    window_summaries,
)
from llmstack.board.candidates import Candidate, read_in_service
from llmstack.board.history import read_history
from llmstack.board.promotion_check import find_missing, needs
from llmstack.board.release_difference import compare
from llmstack.board.release_record import ReleaseRecord, ReleaseRecords, read_records
from llmstack.board.run_record import MAX_ROWS
from llmstack.board.sessions import Session
from llmstack.board.settings import BoardSettings
from llmstack.board.sign_offs import MAX_COMMENT_CHARS, SignOff, list_sign_offs
from llmstack.board.template_filters import FILTERS, NAME_TABLES
from llmstack.release.evidence import FAILED

_TEMPLATES = Path(__file__).parent / "templates"
_UNITS = {"queue_delay": "µs", "cost": "USD"}
_NUM_LATEST = 5


class ReleaseRow(NamedTuple):
    """A release in the list, with its sign-offs in force, what it lacks for promotion, and what happened to it."""

    candidate: Candidate
    sign_offs: list[SignOff]
    missing: list[str]
    record: ReleaseRecord
    alarms: list[str]  # what is wrong with it now, whether or not it has been promoted


def make_environment() -> Environment:
    """A Jinja environment that escapes everything and rejects undefined names."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {each.__name__: each for each in FILTERS}
    environment.globals |= {
        "units": _UNITS,
        "rules": RULES,
        "max_rows": MAX_ROWS,
        "needs": needs,
        "name_tables": NAME_TABLES,
    }
    return environment


def overview_page(
    connection: sqlite3.Connection, candidates: list[Candidate], session: Session, settings: BoardSettings, now_ns: int
) -> dict[str, Any]:
    """All releases and the latest changes."""
    records, num_required = read_records(connection, settings.state_dir), settings.num_sign_offs
    return {
        "session": session,
        "rows": [_release_row(connection, candidate, records, num_required, now_ns) for candidate in candidates],
        "changes": read_history(connection)[0][:_NUM_LATEST],
    }


def release_page(
    connection: sqlite3.Connection, candidate: Candidate, session: Session, settings: BoardSettings, now_ns: int
) -> dict[str, Any]:
    """One release with all its evidence and sign-offs."""
    records = read_records(connection, settings.state_dir)
    row = _release_row(connection, candidate, records, settings.num_sign_offs, now_ns)
    in_service = None if candidate.is_current else read_in_service(settings.store)
    is_comparable = in_service is not None and not in_service.problem and not candidate.problem
    return {
        "session": session,
        "candidate": candidate,
        "record": row.record,
        "missing": row.missing,
        "alarms": row.alarms,
        "in_service": in_service,
        "difference": compare(candidate, in_service) if in_service is not None and is_comparable else None,
        "sign_offs": [] if candidate.problem else list_sign_offs(connection, candidate.hashes),
        "has_signed": any(each.reviewer == session.reviewer for each in row.sign_offs),
        "max_comment_chars": MAX_COMMENT_CHARS,
    }


def alerts_page(connection: sqlite3.Connection, session: Session, page: int, now_ns: int) -> dict[str, Any]:
    """One page of window summaries and the chart of the last 24 hours.

    From `MAX_COUNTED` windows on, the last page is unknown (None).
    """
    num_windows = count_windows(connection)
    last_page = max(1, -(-num_windows // PAGE_SIZE)) if num_windows < MAX_COUNTED else None
    page = max(page, 1) if last_page is None else min(max(page, 1), last_page)
    windows = window_summaries(connection, (page - 1) * PAGE_SIZE)
    chart = make_chart(connection, now_ns)
    return {
        "session": session,
        "windows": windows,
        "num_windows": num_windows,
        "page": page,
        "last_page": last_page,
        "has_older": len(windows) == PAGE_SIZE and page != last_page,
        "chart": chart,
        "totals": {rule: sum(bar.num_breaches for bar in chart.bars if bar.rule == rule) for rule in RULES},
    }


def history_page(connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
    """Promotions, rollbacks and failed changes, and events of other types."""
    changes, others = read_history(connection)
    return {"session": session, "changes": changes, "others": others}


def _release_row(
    connection: sqlite3.Connection, candidate: Candidate, records: ReleaseRecords, num_required: int, now_ns: int
) -> ReleaseRow:
    record = records.of(candidate.ref)
    sign_offs = [] if candidate.problem else list_sign_offs(connection, candidate.hashes)
    in_force = [each for each in sign_offs if each.is_in_force(record.rolled_back_ns)]
    open_rules = open_error_rules(connection, candidate.hashes.engine_hash, now_ns)
    reviewers = [each.reviewer for each in in_force]
    missing = find_missing(candidate, reviewers, num_required, open_rules, record.rollback)
    failed_runs = [f"{run.kind} failed" for run in candidate.runs if run.status == FAILED]
    alarms = [*(f"open alert {rule}" for rule in open_rules), *failed_runs]
    return ReleaseRow(candidate, in_force, missing, record, alarms)
