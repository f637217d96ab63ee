"""`llmstack board`: serve the readiness board and manage its accounts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from llmstack.board.defaults import KEEP_ALERTS_DAYS
from llmstack.cli.command_group import CommandGroup
from llmstack.cli.release.options import ArtifactsDir, NumSignOffs
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_ARTIFACTS_DIR, DEFAULT_STATE_DIR
from llmstack.release.defaults import NUM_SIGN_OFFS
from llmstack.server.error import ServerStartError

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Serve the readiness board and manage its accounts.\n\nExample: llmstack board serve --port 8006",
)
reviewers = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Accounts that sign releases off.\n\nExample: llmstack board reviewer add 'Ada Lovelace'",
)
readers = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Accounts that read sign-offs and alerts, such as `llmstack release promote`."
    "\n\nExample: llmstack board reader add promotion",
)
app.add_typer(reviewers, name="reviewer")
app.add_typer(readers, name="reader")

BoardDir = Annotated[
    Path | None,
    typer.Option(
        "--board-dir",
        envvar="LLMSTACK_BOARD_DIR",
        help="Directory of board.db, created if missing; STATE_DIR/board by default.",
        show_default=False,
    ),
]
StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="LLMSTACK_STATE_DIR",
        help="The service's state directory: the board reads its ledger, and is in its folder board.",
    ),
]


@app.command()
def serve(
    webhook_secret_file: Annotated[
        Path,
        typer.Option(
            envvar="LLMSTACK_BOARD_WEBHOOK_SECRET_FILE",
            help="File with the secrets of the readiness webhook, one per line, as the service has them.",
            show_default=False,
        ),
    ],
    board_dir: BoardDir = None,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    ready_url: Annotated[
        str, typer.Option(envvar="LLMSTACK_READY_URL", help="The service's readiness URL.")
    ] = "http://127.0.0.1:8003/readyz",
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but a loopback address needs --public-url.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8004,
    public_url: Annotated[
        str | None,
        typer.Option(
            envvar="LLMSTACK_BOARD_PUBLIC_URL",
            help="URL that browsers use, such as https://board.example behind a TLS proxy.",
            show_default="http://HOST:PORT, for a loopback address",
        ),
    ] = None,
    required_sign_offs: NumSignOffs = NUM_SIGN_OFFS,
    keep_alerts_days: Annotated[
        int,
        typer.Option(
            envvar="LLMSTACK_BOARD_KEEP_ALERTS_DAYS",
            min=1,
            max=36_500,
            help="Days to keep alerts; changes are kept forever.",
        ),
    ] = KEEP_ALERTS_DAYS,
) -> None:
    """Serve the board until Ctrl-C.

    Point the service's LLMSTACK_READINESS_WEBHOOK_URL at http://HOST:PORT/webhooks.

    Example: llmstack board serve --webhook-secret-file readiness.secret
    """
    from llmstack.board.board_database import FILE_NAME
    from llmstack.board.board_server import BoardServer  # other commands need no Starlette
    from llmstack.board.settings import BoardSettings
    from llmstack.release.store import ReleaseStore

    settings = BoardSettings(
        _board_dir(board_dir, state_dir) / FILE_NAME,
        ReleaseStore(artifacts),
        webhook_secret_file,
        ready_url,
        public_url or "",
        required_sign_offs,
        keep_alerts_days,
        state_dir,
    )
    try:
        server = BoardServer(settings, host, port)
    except ServerStartError as error:
        fail(error, error.next_step)
    message = f"board at {server.url}, webhooks to {server.url}/webhooks, state in {settings.database}"
    Console(soft_wrap=True).print(message)
    server.run()


@reviewers.command("add")
def add_reviewer(
    name: Annotated[str, typer.Argument(help="Name shown with the sign-off.")],
    board_dir: BoardDir = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
) -> None:
    """Create a reviewer and print the token for the login. It is not shown again.

    Example: llmstack board reviewer add "Ada Lovelace"
    """
    from llmstack.board.accounts import REVIEWER

    _add(_board_dir(board_dir, state_dir), name, REVIEWER)


@readers.command("add")
def add_reader(
    name: Annotated[str, typer.Argument(help="Name of the reader, such as deploy.")],
    board_dir: BoardDir = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
) -> None:
    """Create a reader and print its token, for LLMSTACK_BOARD_TOKEN_FILE. It is not shown again.

    Example: llmstack board reader add deploy > board.token
    """
    from llmstack.board.accounts import READER

    _add(_board_dir(board_dir, state_dir), name, READER)


@reviewers.command("remove")
@readers.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the account.")],
    board_dir: BoardDir = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
) -> None:
    """Remove an account: its token and sessions end, its sign-offs are withdrawn and stay on record.

    Example: llmstack board reviewer remove "Ada Lovelace"
    """
    from llmstack.board.accounts import remove_account

    with _board(_board_dir(board_dir, state_dir)) as connection:
        remove_account(connection, name, time.time_ns())


@reviewers.command("list")
@readers.command("list")
def list_all_accounts(
    board_dir: BoardDir = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all accounts, including removed ones.

    Example: llmstack board reviewer list
    """
    from llmstack.board.accounts import list_accounts

    with _board(_board_dir(board_dir, state_dir)) as connection:
        accounts = list_accounts(connection)
    if as_json:
        return print_json([account._asdict() for account in accounts])
    table = Table("name", "kind", "state")
    for account in accounts:
        table.add_row(account.name, account.kind, "removed" if account.removed_ns else "active")
    return Console().print(table)


def _board_dir(board_dir: Path | None, state_dir: Path) -> Path:
    """The directory of board.db; a note says where one of an earlier version is left alone."""
    from llmstack.board.board_directory import find_board_directory

    if board_dir is not None:
        return board_dir
    found = find_board_directory(state_dir)
    if found.unused is not None:
        note = (
            f"note:  the board of an earlier version in {found.unused} is not used: stop it and move its files to "
            f"{found.path}, or give --board-dir {found.unused}"
        )
        Console(stderr=True, soft_wrap=True, highlight=False).print(note, markup=False)
    return found.path


def _add(board_dir: Path, name: str, kind: str) -> None:
    from llmstack.board.accounts import add_account

    with _board(board_dir) as connection:
        token = add_account(connection, name, kind, time.time_ns())
    typer.echo(token)


@contextmanager
def _board(board_dir: Path) -> Iterator[sqlite3.Connection]:
    from llmstack.board.accounts import AccountError
    from llmstack.board.board_database import FILE_NAME, create_board, open_board

    try:
        create_board(board_dir / FILE_NAME)
        with open_board(board_dir / FILE_NAME) as connection:
            yield connection
    except AccountError as error:
        fail(error, "`llmstack board reviewer list` shows all names")
    except (OSError, sqlite3.Error) as error:
        fail(f"the board in {board_dir} can't be written: {error}", "choose another --board-dir")
