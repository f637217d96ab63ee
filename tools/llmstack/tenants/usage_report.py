"""What tenants used: the ledger's sums by UTC day, task, schema, model or tenant.

A row belongs to the day on which it was admitted, and counts when it is closed. Archiving rows changes nothing here.
Refused rows are those of registered tenants; they are known by day and tenant only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from llmstack.ledger.money import dollar_text
from llmstack.ledger.period import Period

CURRENCY = "USD"
_DAY_NS = 86_400 * 1_000_000_000
_FIRST_DAY = date(1970, 1, 1)
_LAST_DAY = (date.max - _FIRST_DAY).days
# The column of each group.
GROUPS = {"day": "day", "task": "task", "schema": "schema_id", "model": "engine_hash", "tenant": "tenant"}
_REFUSAL_GROUPS = ("day", "tenant")


class UsageSums(NamedTuple):
    """The sums of one group. `num_refused` is None where refused rows are not known by this group."""

    num_rows: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    nano_usd: int = 0
    num_refused: int | None = 0

    def as_json(self) -> dict[str, Any]:
        """All sums; the cost in nano-dollars and as an exact decimal of dollars."""
        return {
            "num_rows": self.num_rows,
            "num_refused": self.num_refused,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_completion_tokens": self.num_completion_tokens,
            "cost_nano_usd": self.nano_usd,
            "cost_usd": dollar_text(self.nano_usd),
        }


class UsageReport(NamedTuple):
    """The sums of each group, sorted by its key, and of all groups.

    A key is a day as `2026-11-29`, an engine's hash, or the name of a task, a schema or a tenant (empty without).
    """

    by: str
    period: Period
    tenant: str | Sequence[str] | None
    groups: list[tuple[str, UsageSums]]
    total: UsageSums
    num_groups: int
    """The number of groups in all: more than in `groups` if these were limited."""

    def as_json(self, model_names: Mapping[str, str]) -> dict[str, Any]:
        """The report; `model_names` has the models of known engines by hash."""
        since, until = _day_texts(self.period)
        return {
            "tenant": self.tenant,
            "currency": CURRENCY,
            "by": self.by,
            "since": since,
            "until": until,
            "data": [{**self._key_as_json(key, model_names), **sums.as_json()} for key, sums in self.groups],
            "totals": self.total.as_json(),
            "num_groups": self.num_groups,
        }

    def _key_as_json(self, key: str, model_names: Mapping[str, str]) -> dict[str, Any]:
        return {"model": model_names.get(key), "engine_hash": key} if self.by == "model" else {self.by: key}


def make_usage(
    connection: sqlite3.Connection,
    by: str,
    period: Period,
    tenant: str | Sequence[str] | None = None,
    max_groups: int | None = None,
) -> UsageReport:
    """The usage of one tenant, of several or of all, by a key of GROUPS. The days that `period` touches count whole.

    With `max_groups` only the groups of the highest cost are returned; the total has all of them.

    Raises:
        sqlite3.Error: the ledger can't be read, or has no sums yet.
    """
    where, values = _where(period, tenant)
    has_refusals = by in _REFUSAL_GROUPS
    groups, total, num_groups = [], UsageSums(), 0
    for key, *sums in connection.execute(_query(GROUPS[by], where, has_refusals=has_refusals), values):
        num_groups += 1
        total = UsageSums(*(sum(pair) for pair in zip(total, sums, strict=True)))
        if max_groups is None or num_groups <= max_groups:
            group = UsageSums(*sums)
            groups.append((_key_text(by, key), group if has_refusals else group._replace(num_refused=None)))
    if not has_refusals:
        query = f"SELECT coalesce(sum(num_rows), 0) FROM refusal_day WHERE {where}"  # noqa: S608 - constants
        total = total._replace(num_refused=connection.execute(query, values).fetchone()[0])
    return UsageReport(by, period, tenant, sorted(groups), total, num_groups)


def _query(column: str, where: str, *, has_refusals: bool) -> str:
    """The sums by `column`, those of the highest cost first."""
    parts = [
        f"SELECT {column} AS key, num_rows, num_prompt_tokens, num_completion_tokens, nano_usd, 0 AS num_refused "  # noqa: S608
        f"FROM usage_day WHERE {where}"
    ]
    if has_refusals:
        parts.append(f"SELECT {column}, 0, 0, 0, 0, num_rows FROM refusal_day WHERE {where}")  # noqa: S608 - constants
    return (
        "SELECT key, sum(num_rows), sum(num_prompt_tokens), sum(num_completion_tokens), sum(nano_usd), "  # noqa: S608
        f"sum(num_refused) FROM ({' UNION ALL '.join(parts)}) GROUP BY key ORDER BY sum(nano_usd) DESC, key"
    )


def _where(period: Period, tenant: str | Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    first, end = _days(period)
    where, values = "day >= :first AND day < :end", {"first": first, "end": end}
    if tenant is None:
        return where, values
    names = {f"t{number}": name for number, name in enumerate([tenant] if isinstance(tenant, str) else tenant)}
    return f"tenant IN ({', '.join(f':{name}' for name in names)}) AND {where}", {**values, **names}


def _days(period: Period) -> tuple[int, int]:
    """The first day since 1970 that the period touches, and the one after the last."""
    return period.from_ns // _DAY_NS, -(-period.until_ns // _DAY_NS)


def _day_texts(period: Period) -> tuple[str | None, str | None]:
    """The first and the last day; None where the period has no bound."""
    unbounded, (first, end) = Period(), _days(period)
    since = None if period.from_ns == unbounded.from_ns else _day_text(first)
    return since, None if period.until_ns == unbounded.until_ns else _day_text(end - 1)


def _key_text(by: str, key: Any) -> str:
    return _day_text(key) if by == "day" else str(key)


def _day_text(day: int) -> str:
    return (_FIRST_DAY + timedelta(days=min(day, _LAST_DAY))).isoformat()
