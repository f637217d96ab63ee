"""Runs the board on a port of its own."""

from __future__ import annotations

import sqlite3

import uvicorn
from rich.console import Console

from llmstack.board.app import make_app
from llmstack.board.board_database import make_board
from llmstack.board.settings import BoardSettings
from llmstack.board.site import SiteError, is_loopback, url_of
from llmstack.cli.terminal import fail
from llmstack.events.webhook_error import WebhookConfigurationError
from llmstack.server.error import ServerStartError
from llmstack.server.ports import listen

MAX_CONNECTIONS = 200


def serve_board(settings: BoardSettings, host: str, port: int) -> None:
    """Serve until a signal; say where. Without a public URL it is the address's own."""
    if not settings.public_url and not is_loopback(host):
        fail(
            f"--host {host} is reached by others, but by which name? Pages are shown and forms taken under the board's "
            "own name alone",
            "give --public-url http://NAME:PORT as browsers reach it, or leave --host out",
        )
    try:
        make_board(settings.database)
        socket = listen(host, "board", port)
        url = (settings.public_url or url_of(host, socket.getsockname()[1])).rstrip("/")
        app = make_app(settings._replace(public_url=url))
    except (WebhookConfigurationError, ServerStartError) as error:
        fail(error, error.next_step)
    except SiteError as error:
        fail(error, "give --public-url scheme, host and port, nothing more")
    except (OSError, sqlite3.Error) as error:
        fail(f"the board can't be made: {error}", "name another --board-dir or --port")
    Console(soft_wrap=True).print(f"board at {url}, webhooks to {url}/webhooks, state in {settings.database}")
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
