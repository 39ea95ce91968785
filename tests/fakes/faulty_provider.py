"""Proxy before a provider, whose submits have faults. Connections carry one call each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)
Fault = str
"""``lost``: the provider gets the call, and its answer is not passed on. ``reset``: it does not get
the call. ``unavailable`` and ``busy``: the same, with an answer."""


class FaultyProvider:
    """Forwards calls to ``upstream``. ``faults`` are those of the next submits, in their order.
    ``submits`` counts those that the provider got."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.faults: list[Fault] = []
        self.submits: list[bytes] = []  # heads
        self.paths: list[str] = []
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for each in self._open:
            each.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(client, to_client))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            head = await client.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            body = await client.readexactly(length)
            await self._answer(head, body, to_client)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            to_client.transport.abort() if not to_client.is_closing() else None

    async def _answer(self, head: bytes, body: bytes, to_client: asyncio.StreamWriter) -> None:
        method, path = head.split(b" ", 2)[:2]
        self.paths.append(f"{method.decode()} {path.decode()}")
        submit = method == b"POST" and not path.endswith(b"/cancel")
        fault = self.faults.pop(0) if submit and self.faults else ""
        if fault == "reset":
            return
        if fault in ("unavailable", "busy"):
            to_client.write(UNAVAILABLE if fault == "unavailable" else BUSY)
            await to_client.drain()
            to_client.close()
            return
        if submit:
            self.submits.append(head)
        head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        server, to_server = await asyncio.open_connection(
            self._upstream.hostname, self._upstream.port
        )
        to_server.write(head + body)
        answer = await server.read()
        to_server.close()
        if self.before is not None:
            await self.before(self.paths[-1])
        if fault != "lost":
            to_client.write(answer)
            await to_client.drain()
            to_client.close()
