"""Runs a board on a free port and sends it signed webhooks."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import uvicorn
from standardwebhooks import Webhook

from llm_policy.ledger.alerts import EVENT_TYPE
from llm_policy.ledger.outbox import new_event
from llmstack.board.accounts import READER, REVIEWER, add_account
from llmstack.board.app import make_app
from llmstack.board.board_database import create_board, open_board
from llmstack.board.board_server import server_config
from llmstack.board.public_url import http_url
from llmstack.board.settings import BoardSettings
from llmstack.release.store import DEFAULT_ARTIFACTS_DIR, ReleaseStore
from llmstack.server.ports import listen
from tests.webhook_receiver import new_secret, write_secrets


class LiveBoard:
    """A running board at `url` with its state in `directory`."""

    # What a fixture may add: a reviewer's token, a client that has logged in with one, a reader's header,
    # the tenants' API keys.
    token: str
    client: httpx.Client
    bearer: dict[str, str]
    keys: dict[str, str]

    def __init__(self, directory: Path, url: str, secret: str, settings: BoardSettings) -> None:
        self.directory, self.url, self.secret, self.settings = directory, url, secret, settings

    def add(self, name: str, kind: str = REVIEWER) -> str:
        with open_board(self.settings.database) as connection:
            return add_account(connection, name, kind, time.time_ns())

    def add_reader(self, name: str = "deploy") -> str:
        return self.add(name, READER)

    def log_in(self, token: str) -> httpx.Client:
        client = httpx.Client(base_url=self.url, follow_redirects=True)
        assert client.post("/login", data={"token": token}).status_code == 200
        return client

    def send(self, body: bytes, **headers: str) -> httpx.Response:
        """Send a webhook signed now; `headers` replace the signed ones."""
        headers = signed(self.secret, body, json.loads(body)["id"]) | headers
        return httpx.post(f"{self.url}/webhooks", content=body, headers=headers)


@contextmanager
def live_board(
    directory: Path, artifacts: Path = DEFAULT_ARTIFACTS_DIR, host: str = "127.0.0.1", **settings: Any
) -> Iterator[LiveBoard]:
    """Run a board of the releases in `artifacts`; `settings` replace those of `BoardSettings`."""
    secret = new_secret()
    socket = listen(host, "board", 0)
    url = http_url(host, socket.getsockname()[1])
    secrets = write_secrets(directory / "secret", secret)
    defaults: dict[str, Any] = {
        "ready_url": "http://127.0.0.1:9/readyz",
        "public_url": url,
        "state_dir": directory / "state",
    }
    board_settings = BoardSettings(directory / "board.db", ReleaseStore(artifacts), secrets, **(defaults | settings))
    create_board(board_settings.database)
    server = uvicorn.Server(server_config(make_app(board_settings)))
    thread = Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        yield LiveBoard(directory, url, secret, board_settings)
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def signed(secret: str, body: bytes, event_id: str, age_s: float = 0.0) -> dict[str, str]:
    timestamp = datetime.fromtimestamp(time.time() - age_s, timezone.utc)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(timestamp.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, timestamp, body.decode()),
        "content-type": "application/cloudevents+json",
    }


def alert(rule: str = "queue_delay", count: int = 1, time_ns: int | None = None, **data: Any) -> bytes:
    time_ns = time.time_ns() if time_ns is None else time_ns
    start = datetime.fromtimestamp(time_ns // 60_000_000_000 * 60, timezone.utc).isoformat()
    values = {
        "rule": rule,
        "threshold": 2_500,
        "observed_max": 9_000,
        "count": count,
        "window_start": start,
        "window_end": start,
        "engine_hash": "sha256:" + "a" * 64,
        "quantisation": "w4a8",
        "samples": ["req-1"],
    }
    return new_event(EVENT_TYPE, values | data, time_ns).body
