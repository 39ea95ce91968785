"""Proxy on a free port, whose subclasses damage what passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """Accepts connections for the server at ``upstream``, an origin. Use on one event loop."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Returns its own origin."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._served(client, to_client))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _served(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            await self._serve(client, to_client)
        finally:
            if not to_client.is_closing():
                to_client.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Serve a connection of a client, which is cut afterwards unless it was closed."""
        raise NotImplementedError

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the server, which is cut at the end."""
        server, to_server = await asyncio.open_connection(
            self._upstream.hostname, self._upstream.port
        )
        try:
            yield server, to_server
        finally:
            to_server.transport.abort()
