"""The page `/usage`: what a tenant used, for its API key; what all tenants used, for the admin key.

Errors have Triton's form, `{"error": "<code>: <text>"}`. No text quotes what the client sent.
"""

from __future__ import annotations

import hmac
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

import orjson

from llm_policy.errors import Code
from llm_policy.ledger.database import open_read_only
from llm_policy.ledger.tenant import find_by_key
from llm_policy.rules.headers import read_keys
from llm_policy.rules.tenants import KEY_FORM
from llmstack.ledger.period import Period
from llmstack.server.command import ADMIN_KEY_HEADER
from llmstack.supervision.page_server import Page, Query
from llmstack.tenants.usage_report import GROUPS, make_usage

MAX_DAYS = 400
DEFAULT_DAYS = 30
MAX_GROUPS = 1_000
MAX_QUERY_S = 3.0
_CHECK_INSTRUCTIONS = 10_000  # of SQLite, between two looks at the clock
_NAMES = ("by", "since", "until", "tenant")
_NS_PER_S = 1_000_000_000
_KEY_FORM = f"{KEY_FORM}; operators: {ADMIN_KEY_HEADER}"
_STATUSES = {
    Code.MISSING_API_KEY: HTTPStatus.UNAUTHORIZED,
    Code.INVALID_API_KEY: HTTPStatus.UNAUTHORIZED,
    Code.TENANT_FORBIDDEN: HTTPStatus.FORBIDDEN,
    Code.INVALID_INPUT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.LEDGER_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


class UsageRejected(Exception):
    """The query is not answered."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.status = _STATUSES[code]


class UsageQuery(NamedTuple):
    """A checked query. `tenant` is None for all tenants."""

    by: str
    period: Period
    tenant: str | None


class UsagePage:
    """Answers from the ledger at `path`. `read_models` gives the names of known engines' models by hash."""

    def __init__(
        self,
        path: Path,
        admin_key: str,
        read_models: Callable[[], Mapping[str, str]],
        max_query_s: float = MAX_QUERY_S,
    ) -> None:
        self._path, self._admin_key, self._read_models = path, admin_key, read_models
        self._max_query_s = max_query_s

    def answer(self, query: Query) -> Page:
        """The page of one query. Belongs to one thread at a time."""
        try:
            return Page(orjson.dumps(self._document(query), option=orjson.OPT_APPEND_NEWLINE))
        except UsageRejected as error:
            body = orjson.dumps({"error": str(error)}, option=orjson.OPT_APPEND_NEWLINE)
            challenge = (("WWW-Authenticate", "Bearer"),) if error.status == HTTPStatus.UNAUTHORIZED else ()
            return Page(body, error.status, headers=challenge)

    def _document(self, query: Query) -> dict[str, object]:
        key_digest = self._identify(query.headers)
        try:
            with closing(open_read_only(self._path)) as connection:
                ends_at_s = time.monotonic() + self._max_query_s
                connection.set_progress_handler(lambda: time.monotonic() > ends_at_s, _CHECK_INSTRUCTIONS)
                asked = parse_query(query.text, time.time_ns(), _own_tenant(connection, key_digest))
                report = make_usage(connection, *asked, max_groups=MAX_GROUPS)
        except sqlite3.Error as error:
            if "interrupted" in str(error):
                text = f"the ledger has not answered within {self._max_query_s:g} s; ask for fewer days"
                raise UsageRejected(Code.DEADLINE_EXCEEDED, text) from None
            raise UsageRejected(Code.LEDGER_UNAVAILABLE, "the ledger can't be read") from None
        return report.as_json(self._read_models() if asked.by == "model" else {})

    def _identify(self, headers: tuple[tuple[str, str], ...]) -> bytes | None:
        """The digest of the API key; None for the admin key."""
        admin_keys = [value for name, value in headers if name == ADMIN_KEY_HEADER]
        given = list(read_keys(headers))
        keys = [key.digest for key in given if key.digest is not None]
        if len(admin_keys) + len(keys) > 1:
            text = f"{len(admin_keys) + len(keys)} keys were given, limit 1 ({_KEY_FORM})"
            raise UsageRejected(Code.INVALID_API_KEY, text)
        if admin_keys:
            if not hmac.compare_digest(admin_keys[0].encode(), self._admin_key.encode()):
                raise UsageRejected(Code.INVALID_API_KEY, f"{ADMIN_KEY_HEADER} is not this server's admin key")
            return None
        if keys:
            return keys[0]
        if given:
            raise UsageRejected(Code.INVALID_API_KEY, f"{given[0].header} holds no API key ({_KEY_FORM})")
        raise UsageRejected(Code.MISSING_API_KEY, f"an API key is required ({_KEY_FORM}), none was given")


def parse_query(text: str, now_ns: int, own_tenant: str | None) -> UsageQuery:
    """The query behind the path's question mark; `own_tenant` is the caller's, None for operators.

    Raises:
        UsageRejected: a parameter is unknown, given twice or out of range, or names another tenant than the caller's.
    """
    pairs = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="replace")
    given = dict(pairs)
    if len(given) < len(pairs) or not given.keys() <= set(_NAMES):
        raise UsageRejected(Code.INVALID_INPUT, f"each of {', '.join(_NAMES)} may be given once, and nothing else")
    by = given.get("by", "day")
    if by not in GROUPS:
        raise UsageRejected(Code.INVALID_INPUT, f"by is none of {', '.join(GROUPS)}")
    tenant = given.get("tenant", own_tenant)
    if own_tenant is not None and tenant != own_tenant:
        raise UsageRejected(Code.TENANT_FORBIDDEN, f"the API key is one of {own_tenant}, tenant is another")
    return UsageQuery(by, _period(given, now_ns), tenant)


def _period(given: Mapping[str, str], now_ns: int) -> Period:
    """The days from `since` up to and including `until`: by default the last 30."""
    today = datetime.fromtimestamp(now_ns // _NS_PER_S, timezone.utc).date()
    until = _day("until", given["until"]) if "until" in given else today
    default = date.fromordinal(max(1, until.toordinal() - DEFAULT_DAYS + 1))
    since = _day("since", given["since"]) if "since" in given else default
    num_days = (until - since).days + 1
    if num_days < 1:
        raise UsageRejected(Code.INVALID_INPUT, f"until is {until}, before since, which is {since}")
    if num_days > MAX_DAYS:
        raise UsageRejected(Code.INVALID_INPUT, f"since is {since}, {num_days} days to {until}, limit {MAX_DAYS}")
    return Period(_unix_ns(since), _unix_ns(until) + 86_400 * _NS_PER_S)


def _day(name: str, text: str) -> date:
    """A day from 1970 to 2200, whose nanoseconds fit into SQLite's integers."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date() if len(text) == 10 and text.isascii() else date.min
    except ValueError:
        day = date.min
    if not 1970 <= day.year <= 2200:
        raise UsageRejected(Code.INVALID_INPUT, f"{name} is no day as 2026-11-29 (UTC), from 1970 to 2200")
    return day


def _unix_ns(day: date) -> int:
    return (day - date(1970, 1, 1)) // timedelta(seconds=1) * _NS_PER_S


def _own_tenant(connection: sqlite3.Connection, key_digest: bytes | None) -> str | None:
    """The tenant of the key; None for operators."""
    if key_digest is None:
        return None
    tenant = find_by_key(connection, key_digest, time.time_ns())
    if tenant is None:
        raise UsageRejected(Code.INVALID_API_KEY, "the API key is not valid: unknown, rotated out or revoked")
    return tenant.name
