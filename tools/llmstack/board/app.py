"""The board's HTTP side for people: pages that show releases, and forms that sign them off."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable
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

from llmstack.board import pages
from llmstack.board.accounts import REVIEWER, find_account
from llmstack.board.board_database import open_board
from llmstack.board.candidates import Candidate, find_candidate, list_candidates
from llmstack.board.inbox import Refusal
from llmstack.board.login_limit import LoginLimit
from llmstack.board.machine_calls import MachineCalls
from llmstack.board.page_security import PageSecurity
from llmstack.board.request_body import read_form
from llmstack.board.service_status import StatusSource
from llmstack.board.sessions import LIFE_S, Session, close_session, find_session, open_session
from llmstack.board.settings import BoardSettings
from llmstack.board.sign_offs import SignOffError, sign, withdraw
from llmstack.board.site import HostCheck, Site

_STATIC = Path(__file__).parent / "static"
SEE_OTHER = 303


class Board:
    """The handlers of pages and forms, and what they share."""

    def __init__(self, settings: BoardSettings, site: Site) -> None:
        self._settings, self._site = settings, site
        self._status = StatusSource(settings.ready_url)
        self._limit = LoginLimit()
        self.templates = pages.environment()

    # Pages

    async def overview(self, request: Request) -> Response:
        """GET /: what is in service, and the candidates."""
        return await self._page(request, "overview.html.j2", self._overview)

    async def release(self, request: Request) -> Response:
        """GET /releases/{name}: one release, where it is signed."""
        return await self._page(request, "release.html.j2", lambda *given: self._release(request, *given))

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
        session_id = await run_in_threadpool(self._open_session, form.get("token", "").strip())
        if session_id is None:
            return self._wrong_token(request.client.host if request.client else "")
        response = RedirectResponse("/", SEE_OTHER)
        response.set_cookie(
            self._site.cookie, session_id, max_age=LIFE_S, path="/", secure=self._site.is_https, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return response

    async def logout(self, request: Request) -> Response:
        """POST /logout."""
        form = await self._form(request)
        session_id = request.cookies.get(self._site.cookie, "")
        await run_in_threadpool(
            self._change, request, form, lambda connection, _: close_session(connection, session_id)
        )
        response = RedirectResponse("/login", SEE_OTHER)
        response.delete_cookie(self._site.cookie, path="/", secure=self._site.is_https, httponly=True)
        return response

    async def sign(self, request: Request) -> Response:
        """POST /releases/{name}/sign: for the hashes that the reviewer saw, as long as they are the release's."""
        form = await self._form(request)

        def change(connection: sqlite3.Connection, session: Session) -> None:
            candidate = self._candidate(request)
            is_seen = form.get("evidence_hash", candidate.evidence_hash) == candidate.evidence_hash
            if candidate.problem or _hashes(form) != candidate.hashes or not is_seen:
                raise Refusal(409, "the release or its evidence changed since you looked at it: look again")
            comment = form.get("comment", "")
            sign(connection, session.reviewer, *_hashes(form), candidate.evidence_hash, comment, time.time_ns())

        await run_in_threadpool(self._change, request, form, change)
        return self._back(request)

    async def withdraw(self, request: Request) -> Response:
        """POST /releases/{name}/withdraw: also when the release is another one by now, or gone."""
        form = await self._form(request)

        def change(connection: sqlite3.Connection, session: Session) -> None:
            withdraw(connection, session.reviewer, *_hashes(form), time.time_ns())

        await run_in_threadpool(self._change, request, form, change)
        return self._back(request)

    # What they are made of

    async def _page(
        self, request: Request, template: str, context: Callable[[sqlite3.Connection, Session], dict[str, Any]]
    ) -> Response:
        """Nothing is looked up, and no file read, for anybody without a session."""

        def render() -> Response:
            with open_board(self._settings.database, writes=False) as connection:
                session = self._session(connection, request)
                if session is None:
                    return RedirectResponse("/login", SEE_OTHER)
                values = context(connection, session)
            return self._html(template, values)

        return await run_in_threadpool(render)

    async def _form(self, request: Request) -> dict[str, str]:
        """A form that one of our own pages sent."""
        origin = request.headers.get("origin")
        if origin is not None and not self._site.sent(origin, request.headers.get("host", "")):
            raise Refusal(403, "this form was sent by another site")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(403, "this form was sent by another site")
        return await read_form(request)

    def _change(
        self, request: Request, form: dict[str, str], change: Callable[[sqlite3.Connection, Session], None]
    ) -> None:
        """Do what a form asks, for whoever is logged in and holds the form's own token."""
        with open_board(self._settings.database) as connection:
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
        candidates = list_candidates(self._settings.store)
        return {
            **pages.overview(connection, candidates, session, self._settings.num_sign_offs, time.time_ns()),
            "service": self._status.status(),
            "ready_url": self._status.url,
        }

    def _release(self, request: Request, connection: sqlite3.Connection, session: Session) -> dict[str, Any]:
        candidate, num_required = self._candidate(request), self._settings.num_sign_offs
        return pages.release_page(connection, candidate, session, num_required, time.time_ns())

    def _candidate(self, request: Request) -> Candidate:
        candidate = find_candidate(self._settings.store, request.path_params["name"])
        if candidate is None:
            raise HTTPException(404)
        return candidate

    def _session(self, connection: sqlite3.Connection, request: Request) -> Session | None:
        session_id = request.cookies.get(self._site.cookie, "")
        return find_session(connection, session_id, time.time_ns()) if session_id else None

    def _open_session(self, token: str) -> str | None:
        """A wrong token costs a look-up, and no one a lock."""
        with open_board(self._settings.database, writes=False) as connection:
            account = find_account(connection, token)
        if account is None or account.kind != REVIEWER:
            return None
        with open_board(self._settings.database) as connection:
            return open_session(connection, account.name, time.time_ns())

    def _wrong_token(self, address: str) -> Response:
        if (wait_s := self._limit.count_failure(address)) > 0:
            context = {"session": None, "problem": f"Too many wrong tokens. Try again in {wait_s:.0f} s."}
            return self._html("login.html.j2", context, 429, {"retry-after": str(int(wait_s) + 1)})
        return self._html("login.html.j2", {"session": None, "problem": "No reviewer has this token."}, 401)

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
        SiteError: the public URL is none.
    """
    site = Site(settings.public_url)
    board, machines = Board(settings, site), MachineCalls(settings)
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
        Route("/webhooks", machines.webhook, methods=post),
        Route("/api/signoffs", machines.sign_offs, methods=get),
        Route("/api/alerts", machines.alerts, methods=get),
        Route("/healthz", machines.health, methods=get),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    refuse = _refuse(board)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(HostCheck, site=site)],
        exception_handlers={Refusal: refuse, HTTPException: refuse, Exception: refuse},
    )
    return PageSecurity(app, site.is_https)  # around everything: a failure's answer has its headers too


def _hashes(form: dict[str, str]) -> tuple[str, str]:
    return form.get("engine_hash", ""), form.get("manifest_hash", "")


def _refuse(board: Board) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Machines get a line of JSON, people a page."""

    async def answer(request: Request, error: Exception) -> Response:
        status, reason = 500, "The board failed; its log says why."
        if isinstance(error, Refusal):
            status, reason = error.status, str(error)
        elif isinstance(error, HTTPException):
            status, reason = error.status_code, "There is nothing here."
        if request.scope["path"].startswith(("/api/", "/webhooks")):
            return JSONResponse({"error": reason}, status)
        context = {"session": None, "status": status, "reason": reason}
        return HTMLResponse(board.templates.get_template("refused.html.j2").render(context), status)

    return answer
