"""The board's HTTP side: pages for reviewers, an inbox for webhooks, signatures for `llmstack release promote`."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import compare_digest
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from llmstack.board import pages
from llmstack.board.accounts import REVIEWER, find_account
from llmstack.board.board_database import open_board
from llmstack.board.candidates import Candidate, list_candidates
from llmstack.board.inbox import MAX_BODY_BYTES, Inbox, Refusal, keep
from llmstack.board.login_limit import LoginLimit
from llmstack.board.page_security import PageSecurity
from llmstack.board.request_body import read_body, read_form
from llmstack.board.service_status import StatusSource
from llmstack.board.sessions import LIFE_S, Session, close_session, find_session, open_session
from llmstack.board.sign_offs import SignOffError, sign, sign_offs, withdraw

_STATIC = Path(__file__).parent / "static"
_MAX_TOKEN_CHARS = 200
SEE_OTHER = 303


@dataclass(frozen=True)
class BoardSettings:
    """Where the board's things are. `public_url` is how browsers reach it: its host is the only one answered."""

    database: Path
    releases_dir: Path
    current: Path
    webhook_secrets: Path
    ready_url: str
    public_url: str

    @property
    def is_https(self) -> bool:
        """Whether cookies may insist on it."""
        return urlsplit(self.public_url).scheme == "https"

    @property
    def cookie(self) -> str:
        """The session cookie's name; its prefix binds it to this very host."""
        return "__Host-llmstack_board" if self.is_https else "llmstack_board"


@dataclass
class Board:
    """The handlers and what they share."""

    settings: BoardSettings
    inbox: Inbox
    status: StatusSource
    limit: LoginLimit = field(default_factory=LoginLimit)
    templates: Environment = field(default_factory=pages.environment)

    # Pages

    async def overview(self, request: Request) -> Response:
        """GET /: what is in service, and the candidates."""
        return await self._page(request, "overview.html.j2", self._overview)

    async def release(self, request: Request) -> Response:
        """GET /releases/{name}: one release, where it is signed."""
        candidate = await run_in_threadpool(self._candidate, request.path_params["name"])
        return await self._page(
            request, "release.html.j2", lambda connection, session: pages.release_page(connection, candidate, session)
        )

    async def alerts(self, request: Request) -> Response:
        """GET /alerts: by rule and window, with a chart."""
        number = request.query_params.get("page", "1")
        page = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 1
        return await self._page(
            request,
            "alerts.html.j2",
            lambda connection, session: pages.alerts_page(connection, session, page, time.time_ns()),
        )

    async def history(self, request: Request) -> Response:
        """GET /history: promotions and rollbacks with their causes."""
        return await self._page(request, "history.html.j2", pages.history_page)

    # Logging in and signing

    async def login_form(self, request: Request) -> Response:
        """GET /login."""
        return self._html("login.html.j2", {"session": None, "problem": ""})

    async def login(self, request: Request) -> Response:
        """POST /login: a reviewer's token for a session."""
        form = await self._form(request)
        address = request.client.host if request.client else ""
        if (wait_s := self.limit.wait_s(address)) > 0:
            context = {"session": None, "problem": f"Too many attempts. Try again in {wait_s:.0f} s."}
            return self._html("login.html.j2", context, 429, {"retry-after": str(int(wait_s) + 1)})
        session_id = await run_in_threadpool(self._open_session, form.get("token", "").strip())
        if session_id is None:
            self.limit.count_failure(address)
            context = {"session": None, "problem": "No reviewer has this token."}
            return self._html("login.html.j2", context, 401)
        response = RedirectResponse("/", SEE_OTHER)
        response.set_cookie(
            self.settings.cookie, session_id, max_age=LIFE_S, path="/", secure=self.settings.is_https, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return response

    async def logout(self, request: Request) -> Response:
        """POST /logout."""
        form = await self._form(request)
        await run_in_threadpool(self._change, request, form, lambda connection, session: None)
        await run_in_threadpool(self._close_session, request)
        response = RedirectResponse("/login", SEE_OTHER)
        response.delete_cookie(self.settings.cookie, path="/", secure=self.settings.is_https, httponly=True)
        return response

    async def sign(self, request: Request) -> Response:
        """POST /releases/{name}/sign: for the hashes that the reviewer saw, as long as they are the release's."""
        return await self._sign(request, is_withdrawal=False)

    async def withdraw(self, request: Request) -> Response:
        """POST /releases/{name}/withdraw."""
        return await self._sign(request, is_withdrawal=True)

    # Machines

    async def webhook(self, request: Request) -> Response:
        """POST /webhooks: an event of the service."""
        body = await read_body(request, MAX_BODY_BYTES)
        event = await run_in_threadpool(self.inbox.verify, body, dict(request.headers))
        is_new = await run_in_threadpool(self._keep, event, body)
        return JSONResponse({"id": event.id, "new": is_new}, 200)

    async def sign_offs(self, request: Request) -> Response:
        """GET /api/signoffs?engine_hash=…&manifest_hash=…: the signatures in force, for anybody with a token."""
        await run_in_threadpool(self._check_bearer, request)
        hashes = request.query_params.get("engine_hash", ""), request.query_params.get("manifest_hash", "")
        given = await run_in_threadpool(self._sign_offs, *hashes)
        return JSONResponse({"engine_hash": hashes[0], "manifest_hash": hashes[1], "signoffs": given})

    async def health(self, request: Request) -> Response:
        """GET /healthz: the board's own; tells nothing."""
        return PlainTextResponse("ok\n")

    # What they are made of

    async def _page(
        self, request: Request, template: str, context: Callable[[sqlite3.Connection, Session], dict[str, Any]]
    ) -> Response:
        def render() -> Response:
            with open_board(self.settings.database, writes=False) as connection:
                session = self._session(connection, request)
                if session is None:
                    return RedirectResponse("/login", SEE_OTHER)
                values = context(connection, session)
            return self._html(template, values)

        return await run_in_threadpool(render)

    async def _form(self, request: Request) -> dict[str, str]:
        """A form that one of our own pages sent."""
        origin = request.headers.get("origin")
        if origin is not None and origin != self._origin():
            raise Refusal(403, "this form was sent by another site")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(403, "this form was sent by another site")
        return await read_form(request)

    async def _sign(self, request: Request, *, is_withdrawal: bool) -> Response:
        form = await self._form(request)
        candidate = await run_in_threadpool(self._candidate, request.path_params["name"])
        hashes = form.get("engine_hash", ""), form.get("manifest_hash", "")

        def change(connection: sqlite3.Connection, session: Session) -> None:
            if is_withdrawal:
                return withdraw(connection, session.reviewer, *hashes, time.time_ns())
            if candidate.problem or hashes != candidate.hashes:
                raise Refusal(409, "the release changed since you looked at it: look again")
            return sign(connection, session.reviewer, *hashes, form.get("comment", ""), time.time_ns())

        await run_in_threadpool(self._change, request, form, change)
        return RedirectResponse(request.url_for("release", name=candidate.name).path, SEE_OTHER)

    def _change(
        self, request: Request, form: dict[str, str], change: Callable[[sqlite3.Connection, Session], None]
    ) -> None:
        """Do what a form asks, for whoever is logged in and holds the form's own token."""
        with open_board(self.settings.database) as connection:
            session = self._session(connection, request)
            if session is None:
                raise Refusal(401, "log in first")
            if not compare_digest(form.get("csrf_token", "").encode(), session.csrf_token.encode()):
                raise Refusal(403, "this form is not of your session: load the page again")
            try:
                change(connection, session)
            except SignOffError as error:
                raise Refusal(409, str(error)) from None

    def _overview(self, connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
        return {
            **pages.overview(connection, self._candidates(), session),
            "service": self.status.status(),
            "ready_url": self.status.url,
        }

    def _candidates(self) -> list[Candidate]:
        return list_candidates(self.settings.releases_dir, self.settings.current)

    def _candidate(self, name: str) -> Candidate:
        for candidate in self._candidates():
            if candidate.name == name:
                return candidate
        raise HTTPException(404)

    def _session(self, connection: sqlite3.Connection, request: Request) -> Session | None:
        session_id = request.cookies.get(self.settings.cookie, "")
        return find_session(connection, session_id, time.time_ns()) if session_id else None

    def _open_session(self, token: str) -> str | None:
        if len(token) > _MAX_TOKEN_CHARS:
            return None
        with open_board(self.settings.database) as connection:
            account = find_account(connection, token)
            if account is None or account.kind != REVIEWER:
                return None
            return open_session(connection, account.name, time.time_ns())

    def _close_session(self, request: Request) -> None:
        with open_board(self.settings.database) as connection:
            close_session(connection, request.cookies.get(self.settings.cookie, ""))

    def _check_bearer(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        address = request.client.host if request.client else ""
        if (wait_s := self.limit.wait_s(address)) > 0:
            raise Refusal(429, f"too many attempts, try again in {wait_s:.0f} s")
        with open_board(self.settings.database, writes=False) as connection:
            is_known = scheme.lower() == "bearer" and len(token) <= _MAX_TOKEN_CHARS and find_account(connection, token)
        if not is_known:
            self.limit.count_failure(address)
            raise Refusal(401, "no account has this token: Authorization: Bearer <token>")

    def _sign_offs(self, engine_hash: str, manifest_hash: str) -> list[dict[str, Any]]:
        with open_board(self.settings.database, writes=False) as connection:
            try:
                given = sign_offs(connection, engine_hash, manifest_hash)
            except SignOffError as error:
                raise Refusal(400, str(error)) from None
        return [
            {"reviewer": each.reviewer, "signed_at": pages.moment(each.signed_ns), "comment": each.comment}
            for each in given
            if each.withdrawn_ns is None
        ]

    def _keep(self, event: Any, body: bytes) -> bool:
        with open_board(self.settings.database) as connection:
            return keep(connection, event, body, time.time_ns())

    def _origin(self) -> str:
        parts = urlsplit(self.settings.public_url)
        return f"{parts.scheme}://{parts.netloc}"

    def _html(
        self, template: str, context: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        return HTMLResponse(self.templates.get_template(template).render(context), status, headers)


def make_app(settings: BoardSettings) -> Starlette:
    """The board as an ASGI application.

    Raises:
        WebhookConfigurationError: the webhook's secret file can't be used.
    """
    board = Board(settings, Inbox(settings.webhook_secrets), StatusSource(settings.ready_url))
    get, post = ["GET"], ["POST"]
    routes: list[Route | Mount] = [
        Route("/", board.overview, methods=get),
        Route("/login", board.login_form, methods=get),
        Route("/login", board.login, methods=post),
        Route("/logout", board.logout, methods=post),
        Route("/releases/{name}", board.release, methods=get, name="release"),
        Route("/releases/{name}/sign", board.sign, methods=post),
        Route("/releases/{name}/withdraw", board.withdraw, methods=post),
        Route("/alerts", board.alerts, methods=get),
        Route("/history", board.history, methods=get),
        Route("/webhooks", board.webhook, methods=post),
        Route("/api/signoffs", board.sign_offs, methods=get),
        Route("/healthz", board.health, methods=get),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    host = urlsplit(settings.public_url).hostname or "localhost"
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(PageSecurity, is_https=settings.is_https),
            Middleware(TrustedHostMiddleware, allowed_hosts=[host, "127.0.0.1", "localhost"], www_redirect=False),
        ],
        exception_handlers={Refusal: _refuse(board), HTTPException: _refuse(board)},
    )


def _refuse(board: Board) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Machines get a line of text, people a page."""

    async def answer(request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, Refusal) else getattr(error, "status_code", 500)
        reason = str(error) if isinstance(error, Refusal) else "There is nothing here."
        if request.url.path.startswith(("/api/", "/webhooks")):
            return JSONResponse({"error": reason}, status)
        context = {"session": None, "status": status, "reason": reason}
        return HTMLResponse(board.templates.get_template("refused.html.j2").render(context), status)

    return answer
