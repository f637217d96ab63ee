"""Runs the board on a port of its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import uvicorn
from rich.console import Console

from llmstack.board.app import BoardSettings, make_app
from llmstack.board.board_database import make_board
from llmstack.events.webhook_error import WebhookConfigurationError
from llmstack.ports import listen
from llmstack.server_error import ServerStartError
from llmstack.terminal import fail

MAX_CONNECTIONS = 200


def serve_board(
    database: Path,
    releases_dir: Path,
    current: Path,
    webhook_secrets: Path,
    ready_url: str,
    host: str,
    port: int,
    public_url: str | None,
) -> None:
    """Serve until a signal; say where."""
    try:
        make_board(database)
        socket = listen(host, "board", port)
        bound = socket.getsockname()[1]
        url = (public_url or f"http://{host}:{bound}").rstrip("/")
        app = make_app(BoardSettings(database, releases_dir, current, webhook_secrets, ready_url, url))
    except (WebhookConfigurationError, ServerStartError) as error:
        fail(error, error.next_step)
    except (OSError, sqlite3.Error) as error:
        fail(f"the board can't be made: {error}", "name another --board-dir or --port")
    Console(soft_wrap=True).print(f"board at {url}, webhooks to {url}/webhooks, state in {database}")
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=10,
        )
    )
    server.run(sockets=[socket])
