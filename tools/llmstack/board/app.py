"""The board's web application: pages that show releases, and forms to sign them off."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from secrets import compare_digest
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from llmstack.board import pages, tenant_pages
from llmstack.board.accounts import REVIEWER, find_account
from llmstack.board.board_database import open_board
from llmstack.board.candidates import Candidate, find_candidate, list_candidates, model_names
from llmstack.board.failed_login_limiter import FailedLoginLimiter
from llmstack.board.local_path import LOGIN, local_path, login_url
from llmstack.board.machine_api import MachineApi
from llmstack.board.public_url import HostCheckMiddleware, PublicUrl
from llmstack.board.release_record import read_records
from llmstack.board.request_body import RequestRejected, read_form
from llmstack.board.security_headers import SecurityHeadersMiddleware
from llmstack.board.service_status import ServiceStatusClient
from llmstack.board.sessions import LIFE_S, Session, close_session, find_session, open_session
from llmstack.board.settings import BoardSettings
from llmstack.board.sign_offs import NEVER_NS, ReleaseHashes, SignOffError, sign, withdraw

_STATIC = Path(__file__).parent / "static"
SEE_OTHER = 303


class Board:
    """The handlers of pages and forms."""

    def __init__(self, settings: BoardSettings, public_url: PublicUrl) -> None:
        self._settings, self._public_url = settings, public_url
        self._status = ServiceStatusClient(settings.ready_url)
        self._failed_logins = FailedLoginLimiter()
        self.templates = pages.make_environment()

    async def overview(self, request: Request) -> Response:
        """GET /: the release in service and all candidates."""
        return await self._page(request, "overview.html.j2", self._overview_values)

    async def release(self, request: Request) -> Response:
        """GET /releases/{name}: one release, with the form to sign it off."""

        def values(connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
            return pages.release_page(connection, self._candidate(request), session, self._settings, time.time_ns())

        return await self._page(request, "release.html.j2", values)

    async def alerts(self, request: Request) -> Response:
        """GET /alerts: by rule and window, with a chart."""

        def values(connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
            return pages.alerts_page(connection, session, _page_number(request), time.time_ns())

        return await self._page(request, "alerts.html.j2", values)

    async def history(self, request: Request) -> Response:
        """GET /history: promotions, rollbacks and failed changes with their causes."""
        return await self._page(request, "history.html.j2", pages.history_page)

    async def tenants(self, request: Request) -> Response:
        """GET /tenants: budgets, requests in flight, refusals and keys of each tenant."""

        def values(_: sqlite3.Connection, session: Session) -> dict[str, Any]:
            try:
                with tenant_pages.open_ledger(self._settings.state_dir) as ledger:
                    return tenant_pages.tenants_page(ledger, session, _page_number(request), time.time_ns())
            except tenant_pages.LedgerUnreadable as error:
                return {"session": session, "problem": str(error)}

        return await self._page(request, "tenants.html.j2", values)

    async def tenant(self, request: Request) -> Response:
        """GET /tenants/{name}: one tenant, with its use of the last days."""
        name = request.path_params["name"]

        def values(_: sqlite3.Connection, session: Session) -> dict[str, Any]:
            models = partial(model_names, self._settings.store)
            try:
                with tenant_pages.open_ledger(self._settings.state_dir) as ledger:
                    found = tenant_pages.tenant_page(ledger, session, name, models, time.time_ns())
            except tenant_pages.LedgerUnreadable as error:
                raise RequestRejected(503, str(error)) from None
            if found is None:
                raise HTTPException(404)
            return found

        return await self._page(request, "tenant.html.j2", values)

    async def login_form(self, request: Request) -> Response:
        """GET /login."""
        return self._login_page(local_path(request.query_params.get("next", "")))

    async def login(self, request: Request) -> Response:
        """POST /login: exchange a reviewer's token for a session, and return to the page that was wanted."""
        form = await self._form(request)
        wanted = local_path(form.get("next", ""))
        session_id = await run_in_threadpool(self._open_session, form.get("token", "").strip())
        if session_id is None:
            return self._wrong_token(request.client.host if request.client else "", wanted)
        response = RedirectResponse(wanted, SEE_OTHER)
        response.set_cookie(
            self._public_url.cookie_name, session_id, max_age=LIFE_S, path="/", secure=self._public_url.is_https,
            httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    async def logout(self, request: Request) -> Response:
        """POST /logout."""
        form = await self._form(request)
        session_id = request.cookies.get(self._public_url.cookie_name, "")
        await run_in_threadpool(
            self._change, request, form, lambda connection, _: close_session(connection, session_id)
        )
        response = RedirectResponse(LOGIN, SEE_OTHER)
        response.delete_cookie(
            self._public_url.cookie_name, path="/", secure=self._public_url.is_https, httponly=True
        )  # fmt: skip
        return response

    async def sign(self, request: Request) -> Response:
        """POST /releases/{name}/sign: for the hashes of release and evidence in the form, if they are still valid."""
        form = await self._form(request)

        def change(connection: sqlite3.Connection, session: Session) -> None:
            candidate = self._candidate(request)
            if "evidence_hash" not in form:
                raise RequestRejected(400, "the form lacks evidence_hash: sign with the form of the release's page")
            is_seen = form["evidence_hash"] == candidate.evidence_hash
            if candidate.problem or _hashes(form) != candidate.hashes or not is_seen:
                raise RequestRejected(
                    409, "the release or its evidence changed after this page was loaded: reload and review it"
                )
            rolled_back_ns = read_records(connection, self._settings.state_dir).of(candidate.ref).rolled_back_ns
            if form.get("rolled_back_ns", str(NEVER_NS)) != str(rolled_back_ns):
                raise RequestRejected(
                    409, "the release was rolled back after this page was loaded: reload and review the cause"
                )
            comment = form.get("comment", "")
            sign(
                connection, session.reviewer, candidate.hashes, candidate.evidence_hash, comment, time.time_ns(),
                rolled_back_ns,
            )  # fmt: skip

        await run_in_threadpool(self._change, request, form, change)
        return self._back(request)

    async def withdraw(self, request: Request) -> Response:
        """POST /releases/{name}/withdraw: also when the release has changed or was deleted."""
        form = await self._form(request)

        def change(connection: sqlite3.Connection, session: Session) -> None:
            withdraw(connection, session.reviewer, _hashes(form), time.time_ns())

        await run_in_threadpool(self._change, request, form, change)
        return self._back(request)

    async def _page(
        self, request: Request, template: str, values: Callable[[sqlite3.Connection, Session], dict[str, Any]]
    ) -> Response:
        """Render a page. Without a session, redirect to the login before any data is read."""

        def render() -> Response:
            with open_board(self._settings.database, writes=False) as connection:
                session = self._session(connection, request)
                if session is None:
                    return RedirectResponse(login_url(request), SEE_OTHER)
                context = values(connection, session)
            return self._html(template, context)

        return await run_in_threadpool(render)

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form from one of the board's own pages.

        Raises:
            RequestRejected: another site sent it, or it is malformed.
        """
        origin = request.headers.get("origin")
        is_own = origin is None or self._public_url.allows_origin(origin, request.headers.get("host", ""))
        if not is_own or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise RequestRejected(403, "this form was sent by another site")
        return await read_form(request)

    def _change(
        self, request: Request, form: dict[str, str], change: Callable[[sqlite3.Connection, Session], None]
    ) -> None:
        """Apply `change` in one transaction, after checking the session and its CSRF token.

        Raises:
            RequestRejected: the session, the token or the change is not valid.
        """
        with open_board(self._settings.database) as connection:
            session = self._session(connection, request)
            if session is None:
                raise RequestRejected(401, "log in first")
            if not compare_digest(form.get("csrf_token", "").encode(), session.csrf_token.encode()):
                raise RequestRejected(403, "this form belongs to another session: reload the page")
            try:
                change(connection, session)
            except SignOffError as error:
                raise RequestRejected(409, str(error)) from None

    def _overview_values(self, connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
        candidates = list_candidates(self._settings.store)
        return {
            **pages.overview_page(connection, candidates, session, self._settings, time.time_ns()),
            "service": self._status.status(),
            "ready_url": self._status.url,
        }

    def _candidate(self, request: Request) -> Candidate:
        candidate = find_candidate(self._settings.store, request.path_params["name"])
        if candidate is None:
            raise HTTPException(404)
        return candidate

    def _session(self, connection: sqlite3.Connection, request: Request) -> Session | None:
        session_id = request.cookies.get(self._public_url.cookie_name, "")
        return find_session(connection, session_id, time.time_ns()) if session_id else None

    def _open_session(self, token: str) -> str | None:
        """The id of a new session, or None. A wrong token is only looked up and takes no write lock."""
        with open_board(self._settings.database, writes=False) as connection:
            account = find_account(connection, token)
        if account is None or account.kind != REVIEWER:
            return None
        with open_board(self._settings.database) as connection:
            return open_session(connection, account.name, time.time_ns())

    def _wrong_token(self, address: str, wanted: str) -> Response:
        if (wait_s := self._failed_logins.record_failure(address)) > 0:
            problem = f"Too many wrong tokens. Try again in {wait_s:.0f} s."
            return self._login_page(wanted, problem, 429, {"retry-after": str(int(wait_s) + 1)})
        return self._login_page(wanted, "No reviewer has this token.", 401)

    def _login_page(
        self, wanted: str, problem: str = "", status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        context = {"session": None, "problem": problem, "wanted": wanted}
        return self._html("login.html.j2", context, status, headers)

    def _back(self, request: Request) -> Response:
        return RedirectResponse(request.app.url_path_for("release", name=request.path_params["name"]), SEE_OTHER)

    def _html(
        self, template: str, context: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        return HTMLResponse(self.templates.get_template(template).render(context), status, headers)


def make_app(settings: BoardSettings) -> ASGIApp:
    """The board as an ASGI application.

    Raises:
        WebhookConfigurationError: the webhook's secret file can't be used.
        PublicUrlError: the public URL is not valid.
    """
    public_url = PublicUrl(settings.public_url)
    board = Board(settings, public_url)
    handler = _error_handler(board)
    app = Starlette(
        routes=_routes(board, MachineApi(settings)),
        middleware=[Middleware(HostCheckMiddleware, public_url=public_url)],
        exception_handlers={RequestRejected: handler, HTTPException: handler, Exception: handler},
    )
    return SecurityHeadersMiddleware(app, public_url.is_https)  # outermost, so that error responses have the headers


def _routes(board: Board, api: MachineApi) -> list[Route | Mount]:
    get, post = ["GET"], ["POST"]
    return [
        Route("/", board.overview, methods=get),
        Route(LOGIN, board.login_form, methods=get),
        Route(LOGIN, board.login, methods=post),
        Route("/logout", board.logout, methods=post),
        Route("/releases/{name}", board.release, methods=get, name="release"),
        Route("/releases/{name}/sign", board.sign, methods=post),
        Route("/releases/{name}/withdraw", board.withdraw, methods=post),
        Route("/alerts", board.alerts, methods=get),
        Route("/tenants", board.tenants, methods=get),
        Route("/tenants/{name}", board.tenant, methods=get),
        Route("/history", board.history, methods=get),
        Route("/webhooks", api.webhook, methods=post),
        Route("/api/signoffs", api.sign_offs, methods=get),
        Route("/api/alerts", api.alerts, methods=get),
        Route("/healthz", api.health, methods=get),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]


def _error_handler(board: Board) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answers errors with JSON on the machines' paths and with a page elsewhere."""

    async def handle(request: Request, error: Exception) -> Response:
        status, reason = 500, "The board failed; its log says why."
        if isinstance(error, RequestRejected):
            status, reason = error.status, str(error)
        elif isinstance(error, HTTPException):
            status, reason = error.status_code, "Page not found."
        if request.scope["path"].startswith(("/api/", "/webhooks")):
            return JSONResponse({"error": reason}, status)
        context = {"session": None, "status": status, "reason": reason}
        return HTMLResponse(board.templates.get_template("error.html.j2").render(context), status)

    return handle


def _page_number(request: Request) -> int:
    """The number of the page that the query asks for; 1 if that is no number."""
    number = request.query_params.get("page", "1")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 1


def _hashes(form: dict[str, str]) -> ReleaseHashes:
    return ReleaseHashes(form.get("engine_hash", ""), form.get("manifest_hash", ""))
