"""What machines ask of the board: the service its webhooks, `llmstack release promote` signatures and alerts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from llmstack.board.accounts import find_account
from llmstack.board.alert_summary import alerts_of
from llmstack.board.board_database import open_board
from llmstack.board.inbox import MAX_BODY_BYTES, CloudEvent, Inbox, Refusal, forget_alerts, keep
from llmstack.board.login_limit import LoginLimit
from llmstack.board.pages import moment
from llmstack.board.request_body import read_body
from llmstack.board.settings import BoardSettings
from llmstack.board.sign_offs import SignOffError, check_hashes, sign_offs

_MAX_UNIX_S = 9e9  # the year 2255: nanoseconds of it still fit into SQLite's integers
DAY_NS = 86_400 * 1_000_000_000
_Found = TypeVar("_Found")


class MachineCalls:
    """The handlers of `/webhooks`, `/api` and `/healthz`."""

    def __init__(self, settings: BoardSettings) -> None:
        self._settings = settings
        self._inbox = Inbox(settings.webhook_secrets)
        self._limit = LoginLimit()

    async def webhook(self, request: Request) -> Response:
        """POST /webhooks: an event of the service."""
        body = await read_body(request, MAX_BODY_BYTES)
        event = await run_in_threadpool(self._inbox.verify, body, dict(request.headers))
        is_new = await run_in_threadpool(self._keep, event, body)
        return JSONResponse({"id": event.id, "new": is_new}, 200)

    async def sign_offs(self, request: Request) -> Response:
        """GET /api/signoffs?engine_hash=…&manifest_hash=…: the signatures in force, for anybody with a token."""
        hashes = request.query_params.get("engine_hash", ""), request.query_params.get("manifest_hash", "")
        given = await run_in_threadpool(self._answer, request, lambda connection: sign_offs(connection, *hashes))
        in_force = [
            {"reviewer": each.reviewer, "signed_at": moment(each.signed_ns), "comment": each.comment}
            for each in given
            if each.withdrawn_ns is None
        ]
        return JSONResponse({"engine_hash": hashes[0], "manifest_hash": hashes[1], "signoffs": in_force})

    async def alerts(self, request: Request) -> Response:
        """GET /api/alerts?engine_hash=…&since=…: what was told of an engine, for anybody with a token."""
        engine_hash, since = request.query_params.get("engine_hash", ""), request.query_params.get("since", "0")

        def find(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            check_hashes(engine_hash)
            return alerts_of(connection, engine_hash, _unix_ns(since))

        found = await run_in_threadpool(self._answer, request, find)
        return JSONResponse({"engine_hash": engine_hash, "alerts": found})

    async def health(self, request: Request) -> Response:
        """GET /healthz: the board's own; tells nothing."""
        return PlainTextResponse("ok\n")

    def _answer(self, request: Request, find: Callable[[sqlite3.Connection], _Found]) -> _Found:
        """What `find` finds, for whoever holds a token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        with open_board(self._settings.database, writes=False) as connection:
            if scheme.lower() == "bearer" and find_account(connection, token):
                try:
                    return find(connection)
                except SignOffError as error:
                    raise Refusal(400, str(error)) from None
        if (wait_s := self._limit.count_failure(request.client.host if request.client else "")) > 0:
            raise Refusal(429, f"too many wrong tokens, try again in {wait_s:.0f} s")
        raise Refusal(401, "no account has this token: Authorization: Bearer <token>")

    def _keep(self, event: CloudEvent, body: bytes) -> bool:
        now_ns = time.time_ns()
        with open_board(self._settings.database) as connection:
            is_new = keep(connection, event, body, now_ns)
            forget_alerts(connection, now_ns - self._settings.keep_alerts_days * DAY_NS)
        return is_new


def _unix_ns(text: str) -> int:
    """A moment in Unix seconds or in ISO 8601 (UTC unless it says otherwise), as Unix nanoseconds.

    Raises:
        Refusal: it is neither.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
        except ValueError:
            raise Refusal(400, "since is neither Unix time in seconds nor a time in ISO 8601") from None
        seconds = (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()
    if not -_MAX_UNIX_S <= seconds <= _MAX_UNIX_S:  # nan is not either
        raise Refusal(400, "since is no moment of these centuries")
    return int(seconds * 1e9)
