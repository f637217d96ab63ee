"""`llmstack tenant`: create, list, show, limit, rotate and revoke. A change holds from the next request on."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from llmstack.cli.command_group import CommandGroup
from llmstack.cli.ledger_connection import ledger_connection
from llmstack.cli.terminal import fail, print_json, print_table
from llmstack.paths import DEFAULT_STATE_DIR
from llmstack.tenants.defaults import MAX_COUNT

if TYPE_CHECKING:
    from llm_policy.ledger.tenant import TenantLimits
    from llmstack.tenants.tenant_admin import Creation, LimitChange, NewKey
    from llmstack.tenants.tenant_status import KeyStatus, TenantStatus

_NS_PER_S = 1_000_000_000
_SECONDS_OF = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MAX_GRACE_S = 365 * _SECONDS_OF["d"]


def _count_option(help_text: str) -> Any:
    return typer.Option(min=0, max=MAX_COUNT, help=help_text, show_default=False)


Name = Annotated[str, typer.Argument(help="The tenant's name.", show_default=False)]
UsdPerDay = Annotated[
    str | None,
    typer.Option("--max-usd-per-day", metavar="USD", help="Budget of a UTC day in dollars.", show_default=False),
]
UsdPerMonth = Annotated[
    str | None,
    typer.Option("--max-usd-per-month", metavar="USD", help="Budget of a UTC month in dollars.", show_default=False),
]
TokensPerMinute = Annotated[int | None, _count_option("Prompt and completion tokens within any 60 seconds.")]
RequestsPerMinute = Annotated[int | None, _count_option("Requests within any 60 seconds; 0 locks the tenant out.")]
ConcurrentRequests = Annotated[int | None, _count_option("Requests that wait for their answers.")]
AdhocGuidesPerMinute = Annotated[
    int | None, _count_option("New guides of clients within any 60 seconds; 0 forbids these guides.")
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="A task of the manifest that it may send; repeat for more.", show_default=False),
]
Schemas = Annotated[
    list[str] | None,
    typer.Option("--schema", help="A schema of the release that it may use; repeat for more.", show_default=False),
]
StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The server's state directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Tenants: API keys, budgets, rates and what each may ask for."
    "\n\nExample: llmstack tenant create acme --max-usd-per-day 5",
)


@app.command()
def create(
    name: Name,
    max_usd_per_day: UsdPerDay = None,
    max_usd_per_month: UsdPerMonth = None,
    max_tokens_per_minute: TokensPerMinute = None,
    max_requests_per_minute: RequestsPerMinute = None,
    max_concurrent_requests: ConcurrentRequests = None,
    max_adhoc_guides_per_minute: AdhocGuidesPerMinute = None,
    task: Tasks = None,
    schema: Schemas = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Create a tenant and print its first API key, once.

    Example: llmstack tenant create acme --max-usd-per-day 10 --max-requests-per-minute 600 --task judge
    """
    from llm_policy.ledger.tenant import TenantLimits
    from llmstack.tenants.tenant_admin import create_tenant

    given = {
        "max_usd_per_day": max_usd_per_day,
        "max_usd_per_month": max_usd_per_month,
        "max_tokens_per_minute": max_tokens_per_minute,
        "max_requests_per_minute": max_requests_per_minute,
        "max_concurrent_requests": max_concurrent_requests,
        "max_adhoc_guides_per_minute": max_adhoc_guides_per_minute,
        "tasks": task,
        "schemas": schema,
    }
    limits = TenantLimits(**_changes(given))
    with _new_ledger(state_dir) as connection:
        creation = create_tenant(connection, name, limits, time.time_ns())
    if as_json:
        print_json(_creation_as_json(name, limits, creation))
        return
    typer.echo(f"created tenant {name}, " + (_limits_text(limits) or "without limits"))
    _note_own_tasks(task)
    if creation.label_use:
        number, first, last = creation.label_use
        typer.echo(
            f"note: {number:,} rows from {first} to {last} have the label {name} already. They stay in its usage and "
            f"count in no budget. From now on requests with X-Tenant: {name} need its key."
        )
    _print_new_key(creation.new_key)


@app.command("list")
def list_tenants(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """List the tenants: US dollars spent in this UTC day and month and their limits, rows refused today, valid keys.

    Example: llmstack tenant list
    """
    from llmstack.tenants.tenant_status import read_statuses

    with _ledger(state_dir) as connection:
        statuses = read_statuses(connection, time.time_ns())
    if as_json:
        print_json([status.as_json() for status in statuses])
    elif statuses:
        print_table(_list_table(statuses))
    else:
        typer.echo("no tenants")


@app.command()
def show(name: Name, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """Show a tenant's limits with what is used of them now, its refusals of this UTC day and its keys.

    Example: llmstack tenant show acme
    """
    from llmstack.events.event_list import iso_time
    from llmstack.tenants.tenant_admin import is_name, unknown_tenant
    from llmstack.tenants.tenant_status import read_statuses

    with _ledger(state_dir) as connection:
        statuses = read_statuses(connection, time.time_ns(), name) if is_name(name) else []
        if not statuses:
            raise unknown_tenant(name)
    (status,) = statuses
    if as_json:
        print_json(status.as_json())
        return
    typer.echo(f"tenant {name}, created {iso_time(status.created_ns)}")
    typer.echo(f"tasks: {_limit_text('tasks', status.limits.tasks)}")
    typer.echo(f"schemas: {_limit_text('schemas', status.limits.schemas)}\n")
    print_table(_limit_table(status))
    typer.echo()
    print_table(_key_table(status.keys))
    if status.refusals_today:
        typer.echo()
        print_table(_refusal_table(status.refusals_today))


@app.command()
def limit(
    name: Name,
    max_usd_per_day: UsdPerDay = None,
    max_usd_per_month: UsdPerMonth = None,
    max_tokens_per_minute: TokensPerMinute = None,
    max_requests_per_minute: RequestsPerMinute = None,
    max_concurrent_requests: ConcurrentRequests = None,
    max_adhoc_guides_per_minute: AdhocGuidesPerMinute = None,
    task: Tasks = None,
    schema: Schemas = None,
    no_limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Remove this limit, such as max-usd-per-day; repeatable.", show_default=False
        ),
    ] = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Set or remove limits of a tenant; limits that are not named stay. Tasks and schemas replace those allowed before.

    Example: llmstack tenant limit acme --max-usd-per-day 12.5 --no-limit max-requests-per-minute
    """
    from llmstack.tenants.tenant_admin import change_limits
    from llmstack.tenants.tenant_status import limits_as_json

    given = {
        "max_usd_per_day": max_usd_per_day,
        "max_usd_per_month": max_usd_per_month,
        "max_tokens_per_minute": max_tokens_per_minute,
        "max_requests_per_minute": max_requests_per_minute,
        "max_concurrent_requests": max_concurrent_requests,
        "max_adhoc_guides_per_minute": max_adhoc_guides_per_minute,
        "tasks": task,
        "schemas": schema,
    }
    changes = _with_removed(_changes(given), no_limit or [])
    if not changes:
        fail("no limit is given", "give a limit such as --max-usd-per-day 10, or --no-limit max-usd-per-day")
    with _ledger(state_dir, for_writing=True) as connection:
        limits, changed = change_limits(connection, name, changes)
    if as_json:
        print_json({"name": name, "limits": limits_as_json(limits), "changes": [_change_as_json(x) for x in changed]})
        return
    for each in changed:
        typer.echo(f"{each.name}: {_limit_text(each.name, each.before)} → {_limit_text(each.name, each.after)}")
    if not changed:
        typer.echo("no limit has changed: these are its limits already")
    _note_own_tasks(task)


def _note_own_tasks(tasks: list[str] | None) -> None:
    """Note the tasks that not every release has: one of them may be mistyped."""
    from llm_policy.release.manifest import TASKS

    if own := [task for task in tasks or () if task not in TASKS]:
        typer.echo(f"note: only a release with tasks of its own has {', '.join(own)}: llmstack manifest summary")


@app.command()
def rotate(
    name: Name,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the last key stays valid: 0, 90s, 30m, 24h or 7d.")
    ] = "24h",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a new API key and print it, once. The last key stays valid for a while, keys before it end now.

    Example: llmstack tenant rotate acme --grace 1h
    """
    from llmstack.events.event_list import iso_time
    from llmstack.tenants.tenant_admin import rotate_key

    grace_ns = _grace_ns(grace)
    with _ledger(state_dir, for_writing=True) as connection:
        rotation = rotate_key(connection, name, grace_ns, time.time_ns())
    if as_json:
        print_json(
            {
                "name": name,
                "new_key": _new_key_as_json(rotation.new_key),
                "rotated": rotation.rotated.as_json() if rotation.rotated else None,
                "ended": [key.as_json() for key in rotation.ended],
            }
        )
        return
    for key in rotation.ended:
        typer.echo(f"key {key.id}: valid → ended")
    if rotation.rotated and rotation.rotated.ends_ns is not None:
        typer.echo(f"key {rotation.rotated.id}: valid → valid until {iso_time(rotation.rotated.ends_ns)}")
    _print_new_key(rotation.new_key)


@app.command()
def revoke(
    name: Name,
    key: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the key with this id.", show_default=False)
    ] = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """End a tenant's API keys, or one of them, for every request that comes from now on.

    Example: llmstack tenant revoke acme --key 1f2e3d4c
    """
    from llmstack.tenants.tenant_admin import revoke_keys
    from llmstack.tenants.tenant_status import read_statuses

    with _ledger(state_dir, for_writing=True) as connection:
        revoked = revoke_keys(connection, name, key, time.time_ns())
        (status,) = read_statuses(connection, time.time_ns(), name)
    if as_json:
        num_valid_keys = status.num_valid_keys
        print_json({"name": name, "revoked": [each.as_json() for each in revoked], "num_valid_keys": num_valid_keys})
        return
    for each in revoked:
        typer.echo(f"key {each.id}: valid → ended")
    if not revoked:
        typer.echo("no key has changed: " + (f"{key} ended before" if key else "none was valid"))
    if not status.num_valid_keys:
        typer.echo(f"tenant {name} has no valid key; `llmstack tenant rotate {name}` makes a new one")


def _changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of TenantLimits that options give; exits when an amount is none."""
    from llmstack.tenants.tenant_admin import FIELDS

    changes: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, list):
            changes[FIELDS[name]] = tuple(dict.fromkeys(value))
        elif isinstance(value, str):
            changes[FIELDS[name]] = _nano_usd(name, value)
        else:
            changes[FIELDS[name]] = value
    return changes


def _nano_usd(name: str, text: str) -> int:
    from llmstack.tenants.tenant_admin import parse_usd

    try:
        return parse_usd(text)
    except ValueError as error:
        fail(f"{_option(name)}: {error}", "give dollars with at most nine decimal places")


def _with_removed(changes: dict[str, Any], removed: list[str]) -> dict[str, Any]:
    from llmstack.tenants.tenant_admin import FIELDS

    by_option = {_option(name).removeprefix("--"): field for name, field in FIELDS.items()}
    for text in removed:
        field = by_option.get(text.removeprefix("--").replace("_", "-"))
        if field is None:
            fail("--no-limit names no limit", f"choose among {', '.join(by_option)}")
        if changes.get(field) is not None:
            fail(f"--no-limit {text} is given, and a new limit too", "give one of both")
        changes[field] = None
    return changes


def _option(name: str) -> str:
    return "--" + {"tasks": "task", "schemas": "schema"}.get(name, name).replace("_", "-")


def _grace_ns(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,8})([smhd])|0", text)
    seconds = int(match[1]) * _SECONDS_OF[match[2]] if match and match[1] else 0
    if match is None or seconds > _MAX_GRACE_S:
        fail("--grace is no time from 0 to 365d", "give a number with s, m, h or d, such as 24h, or 0")
    return seconds * _NS_PER_S


def _print_new_key(new_key: NewKey) -> None:
    """The key stands alone on its line, which is never wrapped."""
    typer.echo(f"new key {new_key.status.id}:\n\n{new_key.key}\n")
    typer.echo("It is not shown again: only its digest is stored. Clients send it as the header")
    typer.echo("`Authorization: Bearer <key>`, or as `X-Api-Key: <key>`.")


def _creation_as_json(name: str, limits: TenantLimits, creation: Creation) -> dict[str, Any]:
    from llmstack.tenants.tenant_status import limits_as_json

    label_use = creation.label_use
    return {
        "name": name,
        "limits": limits_as_json(limits),
        "new_key": _new_key_as_json(creation.new_key),
        "label_use": {
            "num_rows": label_use.num_rows,
            "first": label_use.first.isoformat(),
            "last": label_use.last.isoformat(),
        }
        if label_use
        else None,
    }


def _new_key_as_json(new_key: NewKey) -> dict[str, Any]:
    return {**new_key.status.as_json(), "key": new_key.key, "header": "Authorization: Bearer <key>"}


def _change_as_json(change: LimitChange) -> dict[str, Any]:
    from llmstack.ledger.money import dollar_text

    def value(limit: Any) -> Any:
        return dollar_text(limit) if _is_money(change.name) and limit is not None else limit

    return {"limit": change.name, "before": value(change.before), "after": value(change.after)}


def _limits_text(limits: TenantLimits) -> str:
    from llmstack.tenants.tenant_admin import FIELDS

    values = ((name, getattr(limits, field)) for name, field in FIELDS.items())
    return ", ".join(f"{name} {_limit_text(name, value)}" for name, value in values if value is not None)


def _limit_text(name: str, value: Any) -> str:
    if name in ("tasks", "schemas"):
        return "all" if value is None else ", ".join(value)
    if value is None:
        return "no limit"
    return f"{_short_dollars(value)} US dollars" if _is_money(name) else f"{value:,}"


def _is_money(name: str) -> bool:
    return "_usd_" in name


def _short_dollars(nano_usd: int | None) -> str:
    """Exact dollars without needless zeros, with cents at least; `-` for no limit."""
    from llmstack.ledger.money import dollar_text

    if nano_usd is None:
        return "-"
    whole, _, fraction = dollar_text(nano_usd).partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def _list_table(statuses: list[TenantStatus]) -> Table:
    from llmstack.ledger.money import dollar_text

    titles = ("spent today", "per day", "this month", "per month", "refused", "keys")
    table = Table(Column("tenant", overflow="fold"), *(_number_column(title) for title in titles), box=None)
    for status in statuses:
        table.add_row(
            status.name,
            dollar_text(status.money.spent_today),
            _short_dollars(status.limits.max_nano_usd_per_day),
            dollar_text(status.money.spent_this_month),
            _short_dollars(status.limits.max_nano_usd_per_month),
            f"{sum(status.refusals_today.values()):,}",
            str(status.num_valid_keys),
        )
    return table


def _limit_table(status: TenantStatus) -> Table:
    from llmstack.ledger.money import dollar_text

    limits, money, minute = status.limits, status.money, status.last_minute
    table = Table(
        Column("limit", no_wrap=True), *(_number_column(title) for title in ("value", "used", "reserved")), box=None
    )
    for name, value, used, reserved in (
        ("max_usd_per_day", limits.max_nano_usd_per_day, money.spent_today, money.reserved_today),
        ("max_usd_per_month", limits.max_nano_usd_per_month, money.spent_this_month, money.reserved_this_month),
    ):
        table.add_row(name, _short_dollars(value), dollar_text(used), dollar_text(reserved))
    for name, count, num_used in (
        ("max_tokens_per_minute", limits.max_tokens_per_minute, minute.num_tokens),
        ("max_requests_per_minute", limits.max_requests_per_minute, minute.num_requests),
        ("max_concurrent_requests", limits.max_concurrent_requests, status.num_requests_in_flight),
        ("max_adhoc_guides_per_minute", limits.max_adhoc_guides_per_minute, minute.num_adhoc_guides),
    ):
        table.add_row(name, "-" if count is None else f"{count:,}", f"{num_used:,}", "")
    return table


def _key_table(keys: tuple[KeyStatus, ...]) -> Table:
    from llmstack.events.event_list import iso_time

    table = Table(*(Column(title, no_wrap=True) for title in ("key", "created", "ends", "state")), box=None)
    for key in keys:
        ends = "-" if key.ends_ns is None else iso_time(key.ends_ns)
        table.add_row(key.id, iso_time(key.created_ns), ends, key.state)
    return table


def _refusal_table(refusals: Mapping[str, int]) -> Table:
    table = Table(Column("refused today", no_wrap=True), _number_column("rows"), box=None)
    for code, number in sorted(refusals.items()):
        table.add_row(code, f"{number:,}")
    return table


def _number_column(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)


@contextmanager
def _ledger(state_dir: Path, *, for_writing: bool = False) -> Iterator[sqlite3.Connection]:
    """The ledger in `state_dir`; exits when it is missing, can't be used, or the change is not possible."""
    from llm_policy.ledger.database import FILE_NAME, open_database, open_read_only

    path = state_dir / FILE_NAME

    def connect() -> sqlite3.Connection:
        return open_database(path, must_exist=True) if for_writing else open_read_only(path)

    with ledger_connection(state_dir, connect, _next_step(for_writing)) as connection, _reported():
        yield connection


@contextmanager
def _new_ledger(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """The same for writing, created if missing: tenants may be there before the first start of the server."""
    from llm_policy.ledger.database import FILE_NAME, open_database

    path = state_dir / FILE_NAME
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            open_database(path).close()
    except (OSError, sqlite3.Error) as error:
        fail(f"{state_dir}: {error}", _next_step(for_writing=True))
    with _ledger(state_dir, for_writing=True) as connection:
        yield connection


@contextmanager
def _reported() -> Iterator[None]:
    from llmstack.tenants.tenant_admin import TenantError

    try:
        yield
    except TenantError as error:
        fail(error, error.next_step)


def _next_step(for_writing: bool) -> str:
    if for_writing:
        return "check that the disk is not full and you may write the directory, then try again: nothing has changed"
    return "check that you may read ledger.db* and write the directory; a start of the server upgrades an older ledger"
