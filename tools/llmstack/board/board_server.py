"""Runs the board on a port of its own."""

from __future__ import annotations

import socket
import sqlite3

import uvicorn
from starlette.types import ASGIApp

from llmstack.board.app import make_app
from llmstack.board.board_database import create_board
from llmstack.board.bounded_protocol import BoundedProtocol
from llmstack.board.public_url import PublicUrlError, http_url, is_loopback
from llmstack.board.settings import BoardSettings
from llmstack.server.error import ServerStartError
from llmstack.server.ports import listen


def server_config(app: ASGIApp) -> uvicorn.Config:
    """The settings of the board's HTTP server."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=10,
    )


class BoardServer:
    """A board that listens on `host` and `port`. Without a public URL, it is the URL of this address.

    Raises:
        ServerStartError: the board can't be started; the error states the next step.
    """

    def __init__(self, settings: BoardSettings, host: str, port: int) -> None:
        if not settings.public_url and not is_loopback(host):
            raise ServerStartError(
                f"other machines can reach --host {host}, but the board shows pages and accepts forms only under the "
                "host name of its public URL",
                "give --public-url http://NAME:PORT as browsers use it, or omit --host",
            )
        try:
            create_board(settings.database)
            self._socket: socket.socket = listen(host, "board", port)
            self.url = (settings.public_url or http_url(host, self._socket.getsockname()[1])).rstrip("/")
            app = make_app(settings._replace(public_url=self.url))
        except PublicUrlError as error:
            raise ServerStartError(str(error), "give --public-url a scheme, host and port only") from None
        except (OSError, sqlite3.Error) as error:
            raise ServerStartError(f"the board can't start: {error}", "choose another --board-dir or --port") from None
        self._server = uvicorn.Server(server_config(app))

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM."""
        self._server.run(sockets=[self._socket])
