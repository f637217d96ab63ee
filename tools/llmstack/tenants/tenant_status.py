"""What each registered tenant may use, has used and uses now. The windows are those that its limits hold in."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from llm_policy.ledger.budget_window import day_of, windows_of
from llm_policy.ledger.tenant import TenantLimits, parse_limits
from llm_policy.ledger.tenant_account import WINDOW_S
from llmstack.events.event_list import iso_time
from llmstack.ledger.money import dollar_text

# Ids of keys: the first digits of the digest tell nothing of the key and differ among the keys of a tenant.
KEY_ID_CHARS = 8
VALID, ROTATED, ENDED = KEY_STATES = ("valid", "rotated", "ended")
_NS_PER_S = 1_000_000_000

_TENANTS = "SELECT name, created_ns, limits FROM tenant WHERE :name IS NULL OR name = :name ORDER BY name"
# From `tenant` outwards, so that each tenant's rows are found by the other table's key.
_OF_TENANTS = "FROM tenant CROSS JOIN {table} AS other ON other.tenant = name WHERE (:name IS NULL OR name = :name)"
# The table of keys has no index by tenant: one pass over it.
_KEYS = (
    "SELECT tenant, lower(hex(digest)), created_ns, ends_ns FROM tenant_key "
    "WHERE :name IS NULL OR tenant = :name ORDER BY created_ns, digest"
)
_MONEY = (
    "SELECT name, sum(spent_nano_usd) FILTER (WHERE day = :day), sum(reserved_nano_usd) FILTER (WHERE day = :day), "
    "sum(spent_nano_usd), sum(reserved_nano_usd) "
    f"{_OF_TENANTS.format(table='tenant_day')} AND day >= :first AND day < :end GROUP BY name"
)
_RATES = (
    "SELECT name, sum(num_requests), sum(num_tokens), sum(num_guides) "
    f"{_OF_TENANTS.format(table='tenant_second')} AND second BETWEEN :from_s AND :to_s GROUP BY name"
)
_REFUSALS = f"SELECT name, code, num_rows {_OF_TENANTS.format(table='refusal_day')} AND day = :day ORDER BY code"
# A request of several rows has a reservation for each; its first row counts, as for max_concurrent_requests.
_IN_FLIGHT = (
    "SELECT reservation.tenant, count(*) FROM reservation JOIN request ON id = ledger_id "
    "WHERE row_number = 0 AND (:name IS NULL OR reservation.tenant = :name) GROUP BY reservation.tenant"
)


class KeyStatus(NamedTuple):
    """One API key. Times are Unix times in nanoseconds."""

    id: str
    """The first digits of its digest."""
    created_ns: int
    ends_ns: int | None
    """The time from which it is not valid any more; None: none is set."""
    state: str
    """`valid`, `rotated` (valid until `ends_ns`) or `ended`."""

    def as_json(self) -> dict[str, Any]:
        """All fields, with times in UTC."""
        return {
            "id": self.id,
            "created": iso_time(self.created_ns),
            "ends": None if self.ends_ns is None else iso_time(self.ends_ns),
            "state": self.state,
        }


class SpentMoney(NamedTuple):
    """Nano-dollars of a UTC day and its month: spent by closed rows, reserved for open ones."""

    spent_today: int = 0
    reserved_today: int = 0
    spent_this_month: int = 0
    reserved_this_month: int = 0


class MinuteUse(NamedTuple):
    """What a tenant has sent within the last minute; tokens of open rows are those reserved."""

    num_requests: int = 0
    num_tokens: int = 0
    num_adhoc_guides: int = 0


class TenantStatus(NamedTuple):
    """One registered tenant."""

    name: str
    created_ns: int
    limits: TenantLimits
    money: SpentMoney
    last_minute: MinuteUse
    num_requests_in_flight: int
    refusals_today: dict[str, int]
    """Refused rows by error code."""
    keys: tuple[KeyStatus, ...]
    """Oldest first."""

    @property
    def num_valid_keys(self) -> int:
        """The keys that requests may bring now."""
        return sum(key.state != ENDED for key in self.keys)

    def as_json(self) -> dict[str, Any]:
        """All fields; money in nano-dollars and as exact decimals of dollars."""
        return {
            "name": self.name,
            "created": iso_time(self.created_ns),
            "limits": limits_as_json(self.limits),
            **{f"{name}_nano_usd": value for name, value in self.money._asdict().items()},
            **{f"{name}_usd": dollar_text(value) for name, value in self.money._asdict().items()},
            "last_minute": self.last_minute._asdict(),
            "num_requests_in_flight": self.num_requests_in_flight,
            "refusals_today": self.refusals_today,
            "keys": [key.as_json() for key in self.keys],
        }


def limits_as_json(limits: TenantLimits) -> dict[str, Any]:
    """Every limit, null where there is none; budgets in nano-dollars and as exact decimals of dollars."""
    in_dollars = {
        name.replace("_nano_usd_", "_usd_"): None if value is None else dollar_text(value)
        for name, value in limits._asdict().items()
        if "_nano_usd_" in name
    }
    return {**limits._asdict(), **in_dollars}


def read_statuses(connection: sqlite3.Connection, now_ns: int, name: str | None = None) -> list[TenantStatus]:
    """All tenants by name, or the one with this name, as of one moment.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    day, month = windows_of(day_of(now_ns))
    now_s = now_ns // _NS_PER_S
    values = {
        "name": name,
        "day": day.first,
        "first": month.first,
        "end": month.end,
        "from_s": now_s - WINDOW_S,
        "to_s": now_s + WINDOW_S,
    }
    with _one_moment(connection):
        tenants = connection.execute(_TENANTS, values).fetchall()
        money = {row[0]: SpentMoney(*(value or 0 for value in row[1:])) for row in connection.execute(_MONEY, values)}
        rates = {row[0]: MinuteUse(*row[1:]) for row in connection.execute(_RATES, values)}
        in_flight = dict(connection.execute(_IN_FLIGHT, values).fetchall())
        refusals: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for tenant, code, num_rows in connection.execute(_REFUSALS, values):
            refusals[tenant][code] = num_rows
        keys: defaultdict[str, list[KeyStatus]] = defaultdict(list)
        for tenant, digest, created_ns, ends_ns in connection.execute(_KEYS, values):
            keys[tenant].append(KeyStatus(digest[:KEY_ID_CHARS], created_ns, ends_ns, key_state(ends_ns, now_ns)))
    return [
        TenantStatus(
            tenant,
            created_ns,
            parse_limits(limits),
            money.get(tenant, SpentMoney()),
            rates.get(tenant, MinuteUse()),
            in_flight.get(tenant, 0),
            refusals[tenant],
            tuple(keys[tenant]),
        )
        for tenant, created_ns, limits in tenants
    ]


def key_state(ends_ns: int | None, now_ns: int) -> str:
    """The state of a key that ends at this Unix time."""
    if ends_ns is None:
        return VALID
    return ROTATED if ends_ns > now_ns else ENDED


@contextmanager
def _one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """All queries inside read the same state, also while others write."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")
