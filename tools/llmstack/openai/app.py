"""The routes of the API: read a request, send it to Triton or the readiness port, answer in OpenAI's form."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmstack.openai import sse
from llmstack.openai.answer import (
    AnswerForm,
    AnswerHead,
    ChatForm,
    ModelCard,
    ModelList,
    TextForm,
    new_head,
    policy_report,
    read_usage,
    report_headers,
)
from llmstack.openai.api_document import make_document
from llmstack.openai.chat_request import ChatRequest
from llmstack.openai.completion_request import CompletionRequest
from llmstack.openai.disconnect import ClientGone, run_while_connected
from llmstack.openai.error import ApiError, invalid, policy_error
from llmstack.openai.generation_request import validation_error
from llmstack.openai.model_names import ModelNames
from llmstack.openai.request_headers import RequestHeaders, ignored_header, read_headers
from llmstack.openai.triton_client import Piece, TritonError, TritonServers, Unreachable
from llmstack.openai.usage_client import UsageClient

MAX_BODY_BYTES = 4 << 20
_CHAT, _COMPLETION = "/v1/chat/completions", "/v1/completions"
_JSON = "application/json"
_FAULTS = (TritonError, Unreachable, UnicodeEncodeError)
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class OpenAIApi:
    """The handlers. They keep no state: several processes may serve one address."""

    def __init__(
        self,
        addresses: Sequence[str],
        names: ModelNames,
        usage: UsageClient | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._addresses, self._names, self._max_body_bytes = addresses, names, max_body_bytes
        self._usage = usage or UsageClient(None)
        self._document = orjson.dumps(make_document())
        self._servers: TritonServers

    @contextlib.asynccontextmanager
    async def connected(self, app: object) -> AsyncIterator[None]:
        """Open the connections to Triton on the server's event loop, and close them at its end."""
        self._servers = TritonServers(self._addresses)
        try:
            yield
        finally:
            await self._servers.close()
            await self._usage.close()

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._generate(request, ChatRequest, ChatForm())

    async def completion(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._generate(request, CompletionRequest, TextForm())

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return Response(_encode(ModelList([ModelCard(name) for name in self._names.ids])), media_type=_JSON)

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}."""
        name = request.path_params["name"]
        task = self._names.task_of(name)
        if task and self._names.tasks and task not in self._names.tasks:
            raise ApiError("model_not_found", f"the model has no task of this name (known: {self._names.ids})", "model")
        return Response(_encode(ModelCard(name)), media_type=_JSON)

    async def usage(self, request: Request) -> Response:
        """GET /v1/usage: of the API key's tenant."""
        answer = await self._usage.read(request.url.query, read_headers(request.headers.raw).key_headers)
        return Response(_encode(answer), media_type=_JSON)

    async def health(self, request: Request) -> Response:
        """GET /healthz: whether one of the servers is ready."""
        is_ready = await self._servers.is_ready()
        return Response(orjson.dumps({"ready": is_ready}), 200 if is_ready else 503, media_type=_JSON)

    async def document(self, request: Request) -> Response:
        """GET /openapi.json."""
        return Response(self._document, media_type=_JSON)

    async def _generate(
        self, request: Request, request_type: type[ChatRequest | CompletionRequest], form: AnswerForm
    ) -> Response:
        headers = RequestHeaders((), "")
        try:
            headers = read_headers(request.scope["headers"])
            body = _parse(request_type, await self._read_body(request.receive))
            response = await run_while_connected(request.receive, self._answer(body, form, headers))
        except ApiError as error:
            response = error_response(error)
        except ClientGone:
            response = error_response(ApiError("cancelled", "the client closed the connection"))
        if headers.request_id:
            response.raw_headers.append((b"x-request-id", headers.request_id.encode()))
        return response

    async def _answer(
        self, body: ChatRequest | CompletionRequest, form: AnswerForm, headers: RequestHeaders
    ) -> Response:
        """The response of one request; a stream begins with its first piece, so that a rejection has its status."""
        inputs, parameters = body.translate(self._names.task_of(body.model))
        engine_hash = headers.engine_hash
        head = new_head(form, body.model, engine_hash)
        answer_headers = {**ignored_header(body.ignored), "x-llmstack-engine-hash": engine_hash}
        try:
            if not body.stream and not body.wants_log_probs:
                pieces = [await self._servers.answer(inputs, headers.metadata)]
                return _whole(form, head, pieces, answer_headers)
            source = self._servers.stream(inputs, headers.metadata)
            # Only single tokens have a text of their own, so log-probabilities are collected from a stream.
            if not body.stream:
                return _whole(form, head, [piece async for piece in source], answer_headers)
            first = await anext(source)
        except _FAULTS as fault:
            raise _api_error(fault, parameters) from None
        stream = _Stream(form, head, first, source, parameters, body.include_usage)
        return EventStream(stream.events(), {**sse.HEADERS, **answer_headers})

    async def _read_body(self, receive: Receive) -> bytearray:
        body, is_complete = bytearray(), False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise ApiError("body_too_large", f"the body exceeds {self._max_body_bytes} bytes")
            is_complete = not message.get("more_body", False)
        return body


class EventStream(Response):
    """A response whose events are sent as they come. A client that goes away ends the source."""

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers, media_type=sse.MEDIA_TYPE)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with contextlib.suppress(ClientGone):
            await run_while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Stream(NamedTuple):
    """An answer in chunks, from its first piece on."""

    form: AnswerForm
    head: AnswerHead
    first: Piece
    rest: AsyncGenerator[Piece, None]
    parameters: dict[str, str]
    include_usage: bool

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events; closing them ends the request."""
        usage = None if self.include_usage else msgspec.UNSET
        piece, text_offset = self.first, 0
        try:
            if opening := self.form.first(self.head, usage):
                yield sse.event(opening)
            while True:
                if piece.text or piece.log_probs or piece.is_last:
                    yield sse.event(self.form.chunk(self.head, piece, text_offset, usage))
                if piece.is_last:
                    break
                text_offset += len(piece.text)
                piece = await anext(self.rest)
        except _FAULTS as fault:
            yield sse.error_event(_api_error(fault, self.parameters))
            return
        finally:
            await self.rest.aclose()
        if self.include_usage:
            yield sse.event(self.form.usage_chunk(self.head, read_usage(piece)))
        yield sse.DONE


def make_app(api: OpenAIApi) -> ASGIApp:
    """The ASGI application. The paths that generate don't take the way through Starlette, which has the others."""
    starlette = Starlette(
        routes=[
            Route(_CHAT, api.chat, methods=["POST"]),
            Route(_COMPLETION, api.completion, methods=["POST"]),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/usage", api.usage),
            Route("/healthz", api.health),
            Route("/openapi.json", api.document),
        ],
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_fault},
        lifespan=api.connected,
    )
    direct = {("POST", _CHAT): api.chat, ("POST", _COMPLETION): api.completion}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await starlette(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except Exception as error:
            await (await _on_fault(request, error))(scope, receive, send)
            raise  # the server logs it
        await response(scope, receive, send)

    return app


def error_response(error: ApiError) -> Response:
    """An error as a response of its own."""
    return Response(orjson.dumps(error.document()), error.status, error.headers(), _JSON)


def _parse(
    request_type: type[ChatRequest | CompletionRequest], body: bytes | bytearray
) -> ChatRequest | CompletionRequest:
    try:
        return request_type.model_validate_json(body)
    except ValidationError as error:
        raise validation_error(error) from None


def _whole(form: AnswerForm, head: AnswerHead, pieces: Sequence[Piece], headers: dict[str, str]) -> Response:
    report = policy_report(pieces[-1])
    answer = _encode(form.whole(head, pieces, report))
    return Response(answer, headers={**headers, **report_headers(report)}, media_type=_JSON)


def _api_error(fault: Exception, parameters: dict[str, str]) -> ApiError:
    """The error with which a request is answered; `fault` is one of `_FAULTS`."""
    if isinstance(fault, TritonError):
        return policy_error(str(fault), parameters)
    if isinstance(fault, Unreachable):  # its text has addresses, which clients need not know
        return ApiError("server_unavailable", "Triton does not answer, or the connection to it broke")
    return invalid(None, "a text has an unpaired surrogate")


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this type
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    if error.status_code == 405:
        response = error_response(ApiError("method_not_allowed", "this path does not take this method"))
        response.headers.update(error.headers or {})
        return response
    return error_response(ApiError("not_found", "there is no such path; see /openapi.json"))


async def _on_fault(request: Request, error: Exception) -> Response:
    reference = secrets.token_hex(8)
    _log.error("unexpected error, reference %s", reference)
    return error_response(ApiError("internal", f"unexpected error, reference {reference}"))
