"""Changes of tenants and their API keys: each is one write transaction, so the next request of any process sees it.

At most two keys of a tenant are valid at a time. A key that ends is kept as its digest, with the time of its end.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

from llm_policy.api_key import contains_key, create_key, digest_of
from llm_policy.ledger.budget_window import date_of
from llm_policy.ledger.database import transaction
from llm_policy.ledger.tenant import TenantLimits, parse_limits
from llm_policy.pricing import NANO_USD_PER_USD
from llm_policy.release.manifest import TASKS
from llm_policy.rules.headers import CANARY_TENANT
from llmstack.tenants.defaults import MAX_COUNT as MAX_COUNT
from llmstack.tenants.tenant_status import KEY_ID_CHARS, KeyStatus, key_state

# Limits as operators and error texts name them.
FIELDS = {name.replace("_nano_usd_", "_usd_"): name for name in TenantLimits._fields}
MAX_USD = 1_000_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DECIMAL = re.compile(r"[0-9]{1,10}(\.[0-9]{1,30})?")
_USD_PLACES = 9

_INSERT_KEY = "INSERT INTO tenant_key (digest, tenant, created_ns) VALUES (?, ?, ?)"
# The newest last. A key without an end is newer than one with an end, whatever the clock said.
_KEYS = (
    "SELECT digest, created_ns, ends_ns FROM tenant_key WHERE tenant = ? ORDER BY ends_ns IS NULL, created_ns, digest"
)
_END_KEY = "UPDATE tenant_key SET ends_ns = ? WHERE digest = ?"
_LABEL_USE = "SELECT coalesce(sum(num_rows), 0), min(day), max(day) FROM usage_day WHERE tenant = ?"


class TenantError(ValueError):
    """The change is not possible; nothing has changed. `next_step` is the operator's remedy."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


class NewKey(NamedTuple):
    """A key that was just made. This is the only place where it is known."""

    key: str
    status: KeyStatus

    def __repr__(self) -> str:
        return f"NewKey({self.status.id})"


class LabelUse(NamedTuple):
    """Rows that clients sent under a name before it was a tenant's."""

    num_rows: int
    first: date
    last: date


class Creation(NamedTuple):
    """A new tenant."""

    new_key: NewKey
    label_use: LabelUse | None


class LimitChange(NamedTuple):
    """One limit, as operators name it, before and after; None: no limit."""

    name: str
    before: Any
    after: Any


class Rotation(NamedTuple):
    """A new key, and what becomes of those before it."""

    new_key: NewKey
    rotated: KeyStatus | None
    """The last key, valid until its end."""
    ended: list[KeyStatus]
    """Keys that were valid until now."""


def create_tenant(connection: sqlite3.Connection, name: str, limits: TenantLimits, now_ns: int) -> Creation:
    """Create a tenant with its first key.

    Raises:
        TenantError: the name or a limit is not allowed, or the tenant exists.
        sqlite3.Error: the ledger can't be written.
    """
    _check_new_name(name)
    _check_limits(limits)
    with transaction(connection):
        if connection.execute("SELECT 1 FROM tenant WHERE name = ?", (name,)).fetchone():
            raise TenantError(
                f"tenant {name} exists already",
                f"`llmstack tenant limit {name}` changes its limits, `llmstack tenant rotate {name}` makes a new key",
            )
        connection.execute(
            "INSERT INTO tenant (name, created_ns, limits) VALUES (?, ?, ?)", (name, now_ns, limits.as_text())
        )
        num_rows, first, last = connection.execute(_LABEL_USE, (name,)).fetchone()
        new_key = _add_key(connection, name, now_ns)
    return Creation(new_key, LabelUse(num_rows, date_of(first), date_of(last)) if num_rows else None)


def change_limits(
    connection: sqlite3.Connection, name: str, changes: Mapping[str, Any]
) -> tuple[TenantLimits, list[LimitChange]]:
    """Set the given fields of TenantLimits (None removes a limit). Returns all limits and those that differ now.

    Raises:
        TenantError: a limit is not allowed, or there is no such tenant.
        sqlite3.Error: the ledger can't be written.
    """
    _check_limits(TenantLimits(**changes))
    with transaction(connection):
        before = _limits_of(connection, name)
        after = before._replace(**changes)
        connection.execute("UPDATE tenant SET limits = ? WHERE name = ?", (after.as_text(), name))
    pairs = [(public, getattr(before, field), getattr(after, field)) for public, field in FIELDS.items()]
    return after, [LimitChange(*pair) for pair in pairs if pair[1] != pair[2]]


def rotate_key(connection: sqlite3.Connection, name: str, grace_ns: int, now_ns: int) -> Rotation:
    """Make a new key. The last one stays valid for `grace_ns` at most, keys before it end now.

    Raises:
        TenantError: there is no such tenant.
        sqlite3.Error: the ledger can't be written.
    """
    with transaction(connection):
        _limits_of(connection, name)
        valid = _valid_keys(connection, name, now_ns)
        rotated, ended = None, []
        for number, (digest, created_ns, ends_ns) in enumerate(reversed(valid)):
            end_ns = now_ns + (grace_ns if number == 0 else 0)
            end_ns = end_ns if ends_ns is None else min(end_ns, ends_ns)
            connection.execute(_END_KEY, (end_ns, digest))
            status = _status(digest, created_ns, end_ns, now_ns)
            if end_ns > now_ns:
                rotated = status
            else:
                ended.append(status)
        new_key = _add_key(connection, name, now_ns)
    return Rotation(new_key, rotated, ended)


def revoke_keys(connection: sqlite3.Connection, name: str, key_id: str | None, now_ns: int) -> list[KeyStatus]:
    """End the valid keys of a tenant, or the one with this id, now. Returns those that were valid.

    Raises:
        TenantError: there is no such tenant, or it has no key with this id.
        sqlite3.Error: the ledger can't be written.
    """
    with transaction(connection):
        _limits_of(connection, name)
        if key_id is not None:
            _check_key_id(connection, name, key_id)
        ended = [
            (digest, created_ns)
            for digest, created_ns, _ in _valid_keys(connection, name, now_ns)
            if key_id in (None, digest.hex()[:KEY_ID_CHARS])
        ]
        for digest, _ in ended:
            connection.execute(_END_KEY, (now_ns, digest))
    return [_status(digest, created_ns, now_ns, now_ns) for digest, created_ns in ended]


def parse_usd(text: str) -> int:
    """An amount of dollars, such as `12.5`, in nano-dollars.

    Raises:
        ValueError: it is no decimal from 0 to MAX_USD, or is finer than a nano-dollar.
    """
    whole, _, fraction = text.partition(".")
    if not _DECIMAL.fullmatch(text) or int(whole) + bool(fraction.strip("0")) > MAX_USD:
        raise ValueError(f"{_shown(text)} is no amount in US dollars from 0 to {MAX_USD}, such as 12.5")
    if len(fraction.rstrip("0")) > _USD_PLACES:
        raise ValueError(f"{text} is finer than 0.000000001 US dollars")
    return int(whole) * NANO_USD_PER_USD + int(fraction[:_USD_PLACES].ljust(_USD_PLACES, "0"))


def is_name(text: str) -> bool:
    """Whether a tenant may have this name."""
    return _NAME.fullmatch(text) is not None and not contains_key(text)


def unknown_tenant(name: str) -> TenantError:
    """The error for a name that no tenant has."""
    return TenantError(f"there is no tenant {_shown(name)}", "`llmstack tenant list` shows the tenants")


def _check_new_name(name: str) -> None:
    if contains_key(name):
        raise TenantError("the name contains an API key", "give the tenant a name that is no secret")
    if not is_name(name):
        raise TenantError(
            f"{_shown(name)} is not allowed as a name",
            "use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    if name.lower() == CANARY_TENANT:
        raise TenantError(f"{CANARY_TENANT} is the tenant of the server's own requests", "choose another name")


def _check_limits(limits: TenantLimits) -> None:
    for task in limits.tasks or ():
        if not is_name(task):  # a release may have tasks of its own beside the guide's
            raise TenantError(
                f"{_shown(task)} can't be the name of a task",
                f"choose among {', '.join(TASKS)} and the release's own, which `llmstack manifest summary` shows",
            )
    for schema in limits.schemas or ():
        if not is_name(schema):  # a release allows the same characters for both
            raise TenantError(
                f"{_shown(schema)} can't be the name of a schema", "`llmstack manifest summary` shows the schemas"
            )


def _check_key_id(connection: sqlite3.Connection, name: str, key_id: str) -> None:
    if contains_key(key_id):
        message = "the key itself is given, its id is needed"
    elif key_id not in {digest.hex()[:KEY_ID_CHARS] for digest, _, _ in connection.execute(_KEYS, (name,))}:
        message = f"tenant {name} has no key {key_id!r}"
    else:
        return
    raise TenantError(message, f"`llmstack tenant show {name}` lists the ids of its keys")


def _shown(text: str) -> str:
    """What an operator typed, unless it contains a key: for error texts."""
    return "(an API key)" if contains_key(text) else repr(text)


def _limits_of(connection: sqlite3.Connection, name: str) -> TenantLimits:
    row = connection.execute("SELECT limits FROM tenant WHERE name = ?", (name,)).fetchone() if is_name(name) else None
    if row is None:
        raise unknown_tenant(name)
    return parse_limits(row[0])


def _valid_keys(connection: sqlite3.Connection, name: str, now_ns: int) -> list[tuple[bytes, int, int | None]]:
    """Digest, time of creation and end of each, the newest last."""
    keys = connection.execute(_KEYS, (name,)).fetchall()
    return [key for key in keys if key[2] is None or key[2] > now_ns]


def _add_key(connection: sqlite3.Connection, name: str, now_ns: int) -> NewKey:
    key = create_key()
    digest = digest_of(key)
    connection.execute(_INSERT_KEY, (digest, name, now_ns))
    return NewKey(key, _status(digest, now_ns, None, now_ns))


def _status(digest: bytes, created_ns: int, ends_ns: int | None, now_ns: int) -> KeyStatus:
    return KeyStatus(digest.hex()[:KEY_ID_CHARS], created_ns, ends_ns, key_state(ends_ns, now_ns))
