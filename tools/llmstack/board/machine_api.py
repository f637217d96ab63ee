"""The board's API for machines: webhooks of the service, sign-offs and alerts for `llmstack release promote`."""

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
from llmstack.board.alert_summary import list_alerts
from llmstack.board.board_database import open_board
from llmstack.board.event_store import delete_old_alerts, store_event
from llmstack.board.failed_login_limiter import FailedLoginLimiter
from llmstack.board.release_record import ReleaseRecord, read_records
from llmstack.board.request_body import RequestRejected, read_body
from llmstack.board.settings import BoardSettings
from llmstack.board.sign_offs import ReleaseHashes, SignOff, SignOffError, check_hashes, list_sign_offs
from llmstack.board.template_filters import format_time_ns
from llmstack.board.webhook_verifier import MAX_BODY_BYTES, CloudEvent, WebhookVerifier
from llmstack.release.change import ReleaseRef

_MAX_UNIX_S = 9e9  # the year 2255, whose nanoseconds still fit into SQLite's integers
DAY_NS = 86_400 * 1_000_000_000
_Found = TypeVar("_Found")


class MachineApi:
    """The handlers of `/webhooks`, `/api` and `/healthz`."""

    def __init__(self, settings: BoardSettings) -> None:
        self._settings = settings
        self._verifier = WebhookVerifier(settings.webhook_secrets)
        self._failed_logins = FailedLoginLimiter()

    async def webhook(self, request: Request) -> Response:
        """POST /webhooks: an event of the service."""
        body = await read_body(request, MAX_BODY_BYTES)
        event = await run_in_threadpool(self._verifier.verify, body, dict(request.headers))
        is_new = await run_in_threadpool(self._store, event, body)
        return JSONResponse({"id": event.id, "new": is_new}, 200)

    async def sign_offs(self, request: Request) -> Response:
        """GET /api/signoffs?engine_hash=…&manifest_hash=…: the sign-offs in force, for any account."""
        parameters = request.query_params
        hashes = ReleaseHashes(parameters.get("engine_hash", ""), parameters.get("manifest_hash", ""))
        found, record = await run_in_threadpool(
            self._query, request, lambda connection: self._sign_offs(connection, hashes)
        )
        in_force = [
            {
                "reviewer": each.reviewer,
                "signed_at": format_time_ns(each.signed_ns),
                "signed_ns": each.signed_ns,
                "comment": each.comment,
            }
            for each in found
            if each.is_in_force(record.rolled_back_ns)
        ]
        return JSONResponse({**hashes._asdict(), "signoffs": in_force, "rolled_back": _rollback_document(record)})

    async def alerts(self, request: Request) -> Response:
        """GET /api/alerts?engine_hash=…&since=…: the alerts of an engine, for any account."""
        engine_hash, since = request.query_params.get("engine_hash", ""), request.query_params.get("since", "0")

        def find(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            check_hashes(engine_hash)
            return list_alerts(connection, engine_hash, _unix_ns(since))

        found = await run_in_threadpool(self._query, request, find)
        return JSONResponse({"engine_hash": engine_hash, "alerts": found})

    async def health(self, request: Request) -> Response:
        """GET /healthz: whether the board itself runs."""
        return PlainTextResponse("ok\n")

    def _query(self, request: Request, find: Callable[[sqlite3.Connection], _Found]) -> _Found:
        """The result of `find` if the request carries a valid token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        with open_board(self._settings.database, writes=False) as connection:
            if scheme.lower() == "bearer" and find_account(connection, token):
                try:
                    return find(connection)
                except SignOffError as error:
                    raise RequestRejected(400, str(error)) from None
        if (wait_s := self._failed_logins.record_failure(request.client.host if request.client else "")) > 0:
            raise RequestRejected(429, f"too many wrong tokens, try again in {wait_s:.0f} s")
        raise RequestRejected(401, "no account has this token: Authorization: Bearer <token>")

    def _sign_offs(self, connection: sqlite3.Connection, hashes: ReleaseHashes) -> tuple[list[SignOff], ReleaseRecord]:
        found = list_sign_offs(connection, hashes)
        return found, read_records(connection, self._settings.state_dir).of(ReleaseRef("", *hashes))

    def _store(self, event: CloudEvent, body: bytes) -> bool:
        now_ns = time.time_ns()
        with open_board(self._settings.database) as connection:
            is_new = store_event(connection, event, body, now_ns)
            delete_old_alerts(connection, now_ns - self._settings.keep_alerts_days * DAY_NS)
        return is_new


def _rollback_document(record: ReleaseRecord) -> dict[str, Any] | None:
    if record.rollback is None:
        return None
    time_ns, cause = record.rollback.time_ns, record.rollback.cause
    return {"at": format_time_ns(time_ns), "time_ns": time_ns, "cause": cause}


def _unix_ns(text: str) -> int:
    """Unix nanoseconds from Unix seconds or an ISO 8601 time, which is UTC unless it has an offset.

    Raises:
        RequestRejected: the text is neither.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
        except ValueError:
            raise RequestRejected(400, "since is neither Unix time in seconds nor a time in ISO 8601") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    if not -_MAX_UNIX_S <= seconds <= _MAX_UNIX_S:  # also false for nan
        raise RequestRejected(400, "since is out of range")
    return int(seconds * 1e9)
