"""HTTP transport of a replica's clients."""

from __future__ import annotations

import httpx


class HttpTransport(httpx.AsyncBaseTransport):
    """``inner``, with an ``httpx.ConnectError`` for connections that are reset as they are opened.

    Under uvloop such a connection has lost its socket when anyio 4.16 asks for its addresses, which
    is an ``AttributeError`` (1 in 75 of connections that were reset within a millisecond).
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._inner.handle_async_request(request)
        except AttributeError as error:
            message = "The connection was reset as it was opened."
            raise httpx.ConnectError(message, request=request) from error

    async def aclose(self) -> None:
        await self._inner.aclose()
