"""`llmstack events`: look at the events on their way to the webhooks, deliver them, and queue them again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from llm_policy.ledger.database import NewerLedger
from llm_policy.ledger.outbox import ENDPOINTS, InstanceError, new_event
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.events.attempt_log import json_log
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.due_delivery import DueReport, deliver_due
from llmstack.events.endpoint import Endpoint, configured_names, read_endpoints, url_variable
from llmstack.events.endpoint_lock import EndpointBusy
from llmstack.events.event_list import DeliveryRow, iso_time, list_deliveries
from llmstack.events.outbox_file import LEDGER_FILE, open_outbox
from llmstack.events.replay import Replayed, UnknownEvent, replay_endpoint, replay_events
from llmstack.events.webhook_error import WebhookConfigurationError
from llmstack.events.webhook_sender import TimeOuts, WebhookResponse, WebhookSender
from llmstack.paths import DEFAULT_STATE_DIR

TEST_EVENT_TYPE = "llm_webhook_test"
_NOT_DONE = DIFFERENT
_LIST_WIDTH = 180
_STATE_COLOURS = {"pending": "yellow", "delivered": "green", "failed": "red"}

EndpointName = Enum("EndpointName", {name: name for name in ENDPOINTS}, type=str)  # type: ignore[misc]
StateName = Enum("StateName", {name: name for name in _STATE_COLOURS}, type=str)  # type: ignore[misc]

StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The server's state directory.")]
OneEndpoint = Annotated[EndpointName | None, typer.Option("--endpoint", help="Only this one.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]

app = typer.Typer(
    help="Look at the events on their way to the webhooks, deliver them, and queue them again.", no_args_is_help=True
)


@app.command("list")
def list_events(
    state: Annotated[StateName | None, typer.Option(help="Only deliveries in this state.", show_default=False)] = None,
    endpoint: OneEndpoint = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help="Only events of this type.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """List events and what became of their deliveries, the newest first.

    Example: llmstack events list --state failed --endpoint finance
    """
    configured = configured_names(os.environ)
    with _outbox(state_dir) as connection:
        rows = list_deliveries(connection, _name(state), _name(endpoint), event_type, limit)
    if as_json:
        print_json([row.as_json(configured) for row in rows])
    elif rows:
        console = Console()
        # An id stays in one piece, to be copied: where the terminal is narrower, the terminal wraps it.
        console.width = max(console.width, _LIST_WIDTH)
        console.print(_delivery_table(rows, configured))
    else:
        typer.echo("no such deliveries")


def _delivery_table(rows: list[DeliveryRow], configured: Collection[str]) -> Table:
    columns = ("time", "id", "type", "endpoint", "state")
    table = Table(*(Column(name, no_wrap=True) for name in columns), Column("tries", justify="right"), "note", box=None)
    for row in rows:
        state = f"[{_STATE_COLOURS[row.state]}]{row.state}[/]"
        cells = (iso_time(row.time_ns), row.id, escape(row.type), row.endpoint, state, str(row.num_attempts))
        table.add_row(*cells, escape(row.note(configured)))
    return table


@app.command()
def deliver(endpoint: OneEndpoint = None, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: AsJson = False) -> None:
    """Deliver what is due now, then exit: 0 when nothing is left, 1 when something waits or was given up.

    `llmstack serve` delivers by itself; this is for what it left behind. Both at once is refused. One JSON line for
    each attempt goes to standard error.

    Example: llmstack events deliver --endpoint readiness
    """
    endpoints = _configured(endpoint)
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
        _print_reports(reports)
    if not all(report.is_done for report in reports):
        raise typer.Exit(_NOT_DONE)


def _deliver_or_fail(state_dir: Path, endpoints: list[Endpoint], on_attempt: Any) -> list[DueReport]:
    try:
        return deliver_due(state_dir, endpoints, DeliverySettings(), json_log(), on_attempt)
    except EndpointBusy:
        fail(
            "another process delivers these events: a running `llmstack serve` or `llmstack events deliver`",
            "leave it to that one; `llmstack events list --state pending` shows what still waits",
        )
    except OSError as error:
        fail(f"{state_dir}: {error.strerror}", "make the state directory writable")


def _print_reports(reports: list[DueReport]) -> None:
    table = Table("endpoint", *(Column(name, justify="right") for name in ("delivered", "given up", "still waiting")))
    for report in reports:
        table.add_row(report.endpoint, str(report.num_delivered), str(report.num_failed), str(report.num_pending))
    Console().print(table)


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Events to queue again.", show_default=False)] = None,
    endpoint: OneEndpoint = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Queue events again under the same ids, whether they failed or were delivered.

    Without ids: all that failed at --endpoint, and what waits there for its retry waits no longer. Either way an
    endpoint that was disabled by 410 Gone is enabled again. Old events go before newer ones that still wait.

    Example: llmstack events replay --endpoint readiness
    """
    if not ids and endpoint is None:
        fail("nothing to replay", "give ids of events, or --endpoint; `llmstack events list --state failed` shows both")
    with _outbox(state_dir) as connection:
        try:
            replayed = _replay(connection, ids or [], _name(endpoint))
        except UnknownEvent as error:
            fail(error, "`llmstack events list` shows the ids")
    if as_json:
        print_json(replayed._asdict())
        return
    typer.echo(f"queued again: {replayed.num_queued}")
    for name in replayed.enabled_again:
        typer.echo(f"enabled again: {name}")


def _replay(connection: sqlite3.Connection, ids: list[str], endpoint: str | None) -> Replayed:
    if ids or endpoint is None:
        return replay_events(connection, ids, endpoint)
    return replay_endpoint(connection, endpoint)


@app.command()
def test(endpoint: OneEndpoint = None, as_json: AsJson = False) -> None:
    """Send a signed test event to the webhooks, once and at once, past the events that wait.

    Its type is llm_webhook_test; a receiver should verify it and do nothing. Exits with 1 when one was not taken.

    Example: llmstack events test --endpoint finance
    """
    try:
        results = {each.name: _send_test(each) for each in _configured(endpoint)}
    except InstanceError as error:
        fail(error, error.next_step)
    if as_json:
        print_json({name: {**answer._asdict(), "delivered": not answer.error} for name, answer in results.items()})
    else:
        for name, answer in results.items():
            typer.echo(f"{name}: " + (answer.error or f"HTTP {answer.status}, taken"))
    if any(answer.error for answer in results.values()):
        raise typer.Exit(_NOT_DONE)


def _send_test(endpoint: Endpoint) -> WebhookResponse:
    now_ns = time.time_ns()
    event = new_event(TEST_EVENT_TYPE, {"endpoint": endpoint.name}, now_ns)
    with (
        closing(WebhookSender(endpoint, TimeOuts())) as sender,
        Console(stderr=True).status(f"sending to {endpoint.origin}"),
    ):
        return sender.send(event, now_ns / 1e9)


def _configured(chosen: EndpointName | None) -> list[Endpoint]:
    """The endpoints to send to; exits when there is none or one can't be used."""
    try:
        endpoints = [each for each in read_endpoints(os.environ) if chosen is None or each.name == _name(chosen)]
    except WebhookConfigurationError as error:
        fail(error, error.next_step)
    if not endpoints:
        name = _name(chosen)
        variables = " or ".join(url_variable(each) for each in ([name] if name else ENDPOINTS))
        fail("no webhook configured", f"set {variables}, and the same with _SECRET_FILE for _URL; see docs/events.md")
    return endpoints


@contextmanager
def _outbox(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """The outbox in `state_dir`; exits when there is none or it can't be used."""
    if not (state_dir / LEDGER_FILE).is_file():
        fail(
            f"{state_dir} has no {LEDGER_FILE}", "give --state-dir (or LLMSTACK_STATE_DIR) the server's state directory"
        )
    try:
        with closing(open_outbox(state_dir)) as connection:
            yield connection
    except NewerLedger as error:
        fail(f"{state_dir}: {error}", error.next_step)
    except sqlite3.Error as error:
        _give_up(state_dir, error)


def _give_up(state_dir: Path, error: sqlite3.Error) -> NoReturn:
    fail(f"{state_dir / LEDGER_FILE}: {error}", "see that the disk is not full and the directory can be written")


def _name(choice: Enum | None) -> str | None:
    return None if choice is None else str(choice.value)
