"""`llmstack board`: serve the readiness board, and say who may sign."""

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

from llmstack.board.accounts import READER, REVIEWER, AccountError, add_account, list_accounts, remove_account
from llmstack.board.board_database import FILE_NAME, make_board, open_board
from llmstack.board.settings import KEEP_ALERTS_DAYS, BoardSettings
from llmstack.cli.release.options import DEFAULT_ARTIFACTS_DIR, NUM_SIGN_OFFS, ArtifactsDir, NumSignOffs
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_STATE_DIR
from llmstack.release.store import ReleaseStore

app = typer.Typer(no_args_is_help=True, help="The readiness board, where reviewers sign releases off.")
reviewers = typer.Typer(no_args_is_help=True, help="Who may sign.")
readers = typer.Typer(no_args_is_help=True, help="Who may read signatures: `llmstack release promote`.")
app.add_typer(reviewers, name="reviewer")
app.add_typer(readers, name="reader")

BoardDir = Annotated[
    Path, typer.Option("--board-dir", envvar="LLMSTACK_BOARD_DIR", help="Where board.db lives; made when missing.")
]
DEFAULT_BOARD_DIR = DEFAULT_STATE_DIR.parent / "llmstack-board"


@app.command()
def serve(
    webhook_secret_file: Annotated[
        Path,
        typer.Option(
            envvar="LLMSTACK_BOARD_WEBHOOK_SECRET_FILE",
            help="The secrets that sign the readiness webhook, one a line; the service has the same file.",
            show_default=False,
        ),
    ],
    board_dir: BoardDir = DEFAULT_BOARD_DIR,
    artifacts: ArtifactsDir = DEFAULT_ARTIFACTS_DIR,
    ready_url: Annotated[
        str, typer.Option(envvar="LLMSTACK_READY_URL", help="Where the service explains whether it is ready.")
    ] = "http://127.0.0.1:8003/readyz",
    host: Annotated[
        str, typer.Option(help="The address to listen on; one that others reach needs --public-url.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8004,
    public_url: Annotated[
        str | None,
        typer.Option(
            envvar="LLMSTACK_BOARD_PUBLIC_URL",
            help="How browsers reach the board, such as https://board.example behind a TLS proxy.",
            show_default="http://HOST:PORT, for a loopback address",
        ),
    ] = None,
    required_sign_offs: NumSignOffs = NUM_SIGN_OFFS,
    keep_alerts_days: Annotated[
        int,
        typer.Option(
            envvar="LLMSTACK_BOARD_KEEP_ALERTS_DAYS", min=1, max=36_500, help="Older alerts are deleted; changes stay."
        ),
    ] = KEEP_ALERTS_DAYS,
) -> None:
    """Serve the board until Ctrl-C.

    Point the service's LLMSTACK_READINESS_WEBHOOK_URL at http://HOST:PORT/webhooks.

    Example: llmstack board serve --webhook-secret-file readiness.secret
    """
    from llmstack.board.board_server import serve_board  # Starlette comes with the extra `board`

    settings = BoardSettings(
        board_dir / FILE_NAME,
        ReleaseStore(artifacts),
        webhook_secret_file,
        ready_url,
        public_url or "",
        required_sign_offs,
        keep_alerts_days,
    )
    serve_board(settings, host, port)


@reviewers.command("add")
def add_reviewer(
    name: Annotated[str, typer.Argument(help="As it shall stand beside the signature.")],
    board_dir: BoardDir = DEFAULT_BOARD_DIR,
) -> None:
    """Make a reviewer and print the token to log in with, this once.

    Example: llmstack board reviewer add "Ada Lovelace"
    """
    _add(board_dir, name, REVIEWER)


@readers.command("add")
def add_reader(
    name: Annotated[str, typer.Argument(help="What reads, such as deploy.")], board_dir: BoardDir = DEFAULT_BOARD_DIR
) -> None:
    """Make a reader and print its token, this once: for LLMSTACK_BOARD_TOKEN_FILE.

    Example: llmstack board reader add deploy > board.token
    """
    _add(board_dir, name, READER)


@reviewers.command("remove")
@readers.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Whose token shall not work any more.")],
    board_dir: BoardDir = DEFAULT_BOARD_DIR,
) -> None:
    """End an account and its sessions; its signatures are withdrawn, and stay on record.

    Example: llmstack board reviewer remove "Ada Lovelace"
    """
    with _board(board_dir) as connection:
        remove_account(connection, name, time.time_ns())


@reviewers.command("list")
@readers.command("list")
def list_all(
    board_dir: BoardDir = DEFAULT_BOARD_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every account there ever was.

    Example: llmstack board reviewer list
    """
    with _board(board_dir) as connection:
        accounts = list_accounts(connection)
    if as_json:
        return print_json([account._asdict() for account in accounts])
    table = Table("name", "kind", "state")
    for account in accounts:
        table.add_row(account.name, account.kind, "removed" if account.removed_ns else "active")
    return Console().print(table)


def _add(board_dir: Path, name: str, kind: str) -> None:
    with _board(board_dir) as connection:
        token = add_account(connection, name, kind, time.time_ns())
    typer.echo(token)


@contextmanager
def _board(board_dir: Path) -> Iterator[sqlite3.Connection]:
    try:
        make_board(board_dir / FILE_NAME)
        with open_board(board_dir / FILE_NAME) as connection:
            yield connection
    except AccountError as error:
        fail(error, "llmstack board reviewer list shows all names")
    except (OSError, sqlite3.Error) as error:
        fail(f"the board in {board_dir} can't be written: {error}", "name another --board-dir")
