"""`llmstack usage`: what tenants used, beside a running server or without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from llmstack.cli.ledger_connection import ledger_connection
from llmstack.cli.period import Since, Until, parse_period
from llmstack.cli.terminal import fail, print_json, print_table
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR
from llmstack.tenants.usage_report import GROUPS

if TYPE_CHECKING:
    from llmstack.tenants.usage_report import UsageReport, UsageSums

GroupName = Enum("GroupName", {name: name for name in GROUPS}, type=str)  # type: ignore[misc]


def usage(
    tenant: Annotated[
        list[str] | None, typer.Option(help="Only this tenant; repeat for more.", show_default=False)
    ] = None,
    by: Annotated[GroupName, typer.Option(help="Group by this.")] = GroupName.day,  # type: ignore[attr-defined]
    since: Since = None,
    until: Until = None,
    release_dir: Annotated[
        Path,
        typer.Option(
            "--release",
            envvar="LLMSTACK_RELEASE_DIR",
            help="Names the models of its engine and of those beside it in its release store.",
        ),
    ] = DEFAULT_RELEASE_DIR,
    state_dir: Annotated[
        Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The server's state directory.")
    ] = DEFAULT_STATE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what tenants used: closed rows, tokens and exact cost by day (UTC), task, schema, model or tenant.

    Refused rows of registered tenants are counted by day and tenant. Archived rows stay in the sums.

    Example: llmstack usage --tenant acme --by model --since 2026-11-01
    """
    from llmstack.tenants.engine_models import read_engine_models
    from llmstack.tenants.usage_report import make_usage

    period = parse_period(since, until)
    with _ledger(state_dir) as connection:
        try:
            report = make_usage(connection, by.value, period, _tenant(tenant))
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            fail("this ledger is from a version without sums of usage", "start `llmstack serve`, which adds them up")
    models = read_engine_models(release_dir) if by.value == "model" else {}
    if as_json:
        print_json(report.as_json(models))
        return
    print_table(_table(report, models))
    if not report.groups:
        typer.echo("no usage in this period", err=True)


def _ledger(state_dir: Path) -> AbstractContextManager[sqlite3.Connection]:
    from llm_policy.ledger.database import FILE_NAME, open_read_only

    next_step = "check that you may read ledger.db* and write the directory"
    return ledger_connection(state_dir, lambda: open_read_only(state_dir / FILE_NAME), next_step)


def _tenant(names: list[str] | None) -> str | list[str] | None:
    """One name as itself, none as None."""
    return names[0] if names and len(names) == 1 else names or None


def _table(report: UsageReport, models: Mapping[str, str]) -> Table:
    table = Table(Column(report.by, footer="all", overflow="fold"), box=None, show_footer=True)
    for title, footer in _cells(report.total).items():
        table.add_column(title, footer=footer, justify="right", no_wrap=True)
    for key, sums in report.groups:
        table.add_row(escape(_key_text(key, models)), *_cells(sums).values())
    return table


def _key_text(key: str, models: Mapping[str, str]) -> str:
    return f"{models[key]} {key}" if key in models else key or "-"


def _cells(sums: UsageSums) -> dict[str, str]:
    from llmstack.ledger.money import dollar_text

    return {
        "rows": f"{sums.num_rows:,}",
        "refused": "" if sums.num_refused is None else f"{sums.num_refused:,}",
        "tokens in": f"{sums.num_prompt_tokens:,}",
        "out": f"{sums.num_completion_tokens:,}",
        "US dollars": dollar_text(sums.nano_usd),
    }
