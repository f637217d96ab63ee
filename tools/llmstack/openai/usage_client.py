"""Asks a server's readiness port what the tenant of an API key used."""

from __future__ import annotations

import httpx
import msgspec

from llmstack.openai.answer import UsageAnswer
from llmstack.openai.error import ApiError, policy_error

_TIMEOUT_S = 6.0  # the page answers within 5
_MAX_CONNECTIONS = 4
_PARAMETERS = {name: name for name in ("by", "since", "until", "tenant")}
_decode = msgspec.json.Decoder(UsageAnswer).decode


class _ErrorPage(msgspec.Struct):
    error: str


class UsageClient:
    """The client of the readiness port at `base_url`; without one, usage is not known here."""

    def __init__(self, base_url: str | None) -> None:
        self._base_url = base_url
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def read(self, query: str, key_headers: list[tuple[str, str]]) -> UsageAnswer:
        """The usage that `query` asks for, of the tenant of the key in `key_headers`.

        Raises:
            ApiError: the page rejected the query, or does not answer.
        """
        if self._base_url is None:
            raise ApiError(
                "usage_unavailable",
                "usage is not known here: start the front end with --readiness http://HOST:8003, a server's readiness "
                "port",
            )
        if self._client is None:
            limits = httpx.Limits(max_connections=_MAX_CONNECTIONS)
            self._client = httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S, limits=limits)
        try:
            answer = await self._client.get(f"{self._base_url}/usage?{query}", headers=key_headers)
            return _decode(answer.content) if answer.status_code == 200 else _fail(answer)
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError):  # their texts have addresses
            raise ApiError("server_unavailable", "the server's readiness port does not answer with usage") from None


def _fail(answer: httpx.Response) -> UsageAnswer:
    raise policy_error(msgspec.json.decode(answer.content, type=_ErrorPage).error, _PARAMETERS)
