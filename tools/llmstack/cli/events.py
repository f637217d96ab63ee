"""`llmstack events`: list the events for the webhooks, deliver them, replay them and send test events."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.cli.command_group import CommandGroup
from llmstack.cli.ledger_connection import ledger_connection
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from llmstack.events.due_delivery import DeliveryReport
    from llmstack.events.endpoint import Endpoint
    from llmstack.events.event_list import DeliveryRow
    from llmstack.events.webhook_sender import WebhookResponse

_LIST_WIDTH = 180
_STATE_COLOURS = {"pending": "yellow", "delivered": "green", "failed": "red"}

EndpointName = Enum("EndpointName", {name: name for name in ENDPOINTS}, type=str)  # type: ignore[misc]
StateName = Enum("StateName", {name: name for name in _STATE_COLOURS}, type=str)  # type: ignore[misc]

StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The server's state directory.")]
OneEndpoint = Annotated[EndpointName | None, typer.Option("--endpoint", help="Only this endpoint.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="List, deliver and replay the events for the webhooks.\n\nExample: llmstack events list --state failed",
)


@app.command("list")
def list_events(
    state: Annotated[StateName | None, typer.Option(help="Only deliveries in this state.", show_default=False)] = None,
    endpoint: OneEndpoint = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help="Only events of this type.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of deliveries, newest first.")] = 100,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """List events and the state of their deliveries, newest first.

    Example: llmstack events list --state failed --endpoint finance
    """
    from llmstack.events.endpoint import configured_names
    from llmstack.events.event_list import list_deliveries

    configured = configured_names(os.environ)
    with _outbox(state_dir) as connection:
        rows = list_deliveries(connection, _value(state), _value(endpoint), event_type, limit)
    if as_json:
        print_json([row.as_json(configured) for row in rows])
    elif rows:
        console = Console()
        # Ids are not wrapped, so that they can be copied; a narrower terminal wraps the line itself.
        console.width = max(console.width, _LIST_WIDTH)
        console.print(_delivery_table(rows, configured))
    else:
        typer.echo("no matching deliveries")


@app.command()
def deliver(endpoint: OneEndpoint = None, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """Deliver what is due, then exit: 0 when no delivery is left, 1 when some are pending or were given up.

    `llmstack serve` delivers by itself; use this command for what a stopped server left. The command fails while
    another process delivers. It writes one JSON line per attempt to standard error.

    Example: llmstack events deliver --endpoint readiness
    """
    endpoints = _configured_endpoints(endpoint)
    console = Console(stderr=True)
    with _outbox(state_dir), console.status("delivering") as status:
        counts = dict.fromkeys((each.name for each in endpoints), 0)

        def on_attempt(name: str) -> None:
            counts[name] += 1
            status.update("delivering, " + ", ".join(f"{number} to {name}" for name, number in counts.items()))

        reports = _deliver_or_fail(state_dir, endpoints, on_attempt)
    if as_json:
        print_json([report._asdict() for report in reports])
    else:
        Console().print(_report_table(reports))
    if not all(report.is_done for report in reports):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of events to queue again.", show_default=False)] = None,
    endpoint: OneEndpoint = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Queue events again under the same ids, failed or delivered.

    Without ids, all failed deliveries of --endpoint are queued again and its retries are due immediately. Either way,
    an endpoint that 410 Gone disabled is enabled. Replayed events go before newer pending ones.

    Example: llmstack events replay --endpoint readiness
    """
    from llmstack.events.replay import UnknownEvent, replay_endpoint, replay_events

    with _outbox(state_dir) as connection:
        try:
            if ids:
                result = replay_events(connection, ids, _value(endpoint))
            elif endpoint is not None:
                result = replay_endpoint(connection, endpoint.value)
            else:
                fail("nothing to replay", "give event ids or --endpoint; see `llmstack events list --state failed`")
        except UnknownEvent as error:
            fail(error, "`llmstack events list` shows the ids")
    if as_json:
        print_json(result._asdict())
        return
    typer.echo(f"queued again: {result.num_queued}")
    for name in result.enabled_again:
        typer.echo(f"enabled again: {name}")


@app.command()
def test(endpoint: OneEndpoint = None, as_json: AsJson = False) -> None:
    """Send a signed test event to the webhooks once, ahead of the pending events.

    Its type is llm_webhook_test; a receiver should verify it and do nothing else. Exits with 1 when a receiver does not
    accept it.

    Example: llmstack events test --endpoint finance
    """
    results = {each.name: _send_test_event(each) for each in _configured_endpoints(endpoint)}
    if as_json:
        print_json({name: {**result._asdict(), "delivered": not result.error} for name, result in results.items()})
    else:
        for name, result in results.items():
            typer.echo(f"{name}: " + (result.error or f"HTTP {result.status}, accepted"))
    if any(result.error for result in results.values()):
        raise typer.Exit(EXIT_FAILED)


def _deliver_or_fail(
    state_dir: Path, endpoints: list[Endpoint], on_attempt: Callable[[str], None]
) -> list[DeliveryReport]:
    from llmstack.events.delivery_settings import DeliverySettings
    from llmstack.events.due_delivery import deliver_due
    from llmstack.events.endpoint_lock import EndpointBusy
    from llmstack.events.json_log import json_log

    try:
        return deliver_due(state_dir, endpoints, DeliverySettings(), json_log(), on_attempt)
    except EndpointBusy:
        fail(
            "another process delivers these events: a running `llmstack serve` or `llmstack events deliver`",
            "let it deliver them; `llmstack events list --state pending` shows what is left",
        )
    except OSError as error:
        fail(f"{state_dir}: {error.strerror}", "make the state directory writable")


def _send_test_event(endpoint: Endpoint) -> WebhookResponse:
    from llm_policy.ledger.outbox import InstanceError
    from llmstack.events.webhook_sender import send_test_event

    try:
        with Console(stderr=True).status(f"sending to {endpoint.origin}"):
            return send_test_event(endpoint)
    except InstanceError as error:
        fail(error, error.next_step)


def _configured_endpoints(chosen: EndpointName | None) -> list[Endpoint]:
    """The endpoints to send to; exits when there is none or one can't be used."""
    from llmstack.events.endpoint import read_endpoints, url_variable
    from llmstack.events.secret_file import WebhookConfigurationError

    try:
        endpoints = [each for each in read_endpoints(os.environ) if chosen is None or each.name == chosen.value]
    except WebhookConfigurationError as error:
        fail(error, error.next_step)
    if not endpoints:
        variables = " or ".join(url_variable(each) for each in ([chosen.value] if chosen else ENDPOINTS))
        fail("no webhook configured", f"set {variables} and the matching _SECRET_FILE; see docs/events.md")
    return endpoints


def _outbox(state_dir: Path) -> AbstractContextManager[sqlite3.Connection]:
    """The outbox in `state_dir`; exits when it is missing or can't be used."""
    from llmstack.events.delivery_queue import open_outbox

    next_step = "check that the disk is not full and the directory is writable"
    return ledger_connection(state_dir, lambda: open_outbox(state_dir), next_step)


def _delivery_table(rows: list[DeliveryRow], configured: Collection[str]) -> Table:
    from llmstack.events.event_list import iso_time

    columns = ("time", "id", "type", "rule", "endpoint", "state")
    table = Table(*(Column(name, no_wrap=True) for name in columns), Column("tries", justify="right"), "note", box=None)
    for row in rows:
        state = f"[{_STATE_COLOURS[row.state]}]{row.state}[/]"
        cells = (
            iso_time(row.time_ns),
            row.id,
            escape(row.type),
            escape(row.rule),
            row.endpoint,
            state,
            str(row.num_attempts),
        )
        table.add_row(*cells, escape(row.note(configured)))
    return table


def _report_table(reports: list[DeliveryReport]) -> Table:
    table = Table("endpoint", *(Column(name, justify="right") for name in ("delivered", "given up", "pending")))
    for report in reports:
        table.add_row(report.endpoint, str(report.num_delivered), str(report.num_failed), str(report.num_pending))
    return table


def _value(choice: Enum | None) -> str | None:
    return None if choice is None else str(choice.value)
