"""Proxy before a provider, whose submits have faults. Connections carry one call each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.fakes.proxy import Proxy

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)
Fault = str
"""``lost``: the provider gets the call, and its answer is not passed on. ``reset``: it does not get
the call. ``unavailable`` and ``busy``: the same, with an answer."""


class FaultyProvider(Proxy):
    """``faults`` are those of the next submits, in their order. ``submits`` counts those that the
    provider got."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.faults: list[Fault] = []
        self.submits: list[bytes] = []  # heads
        self.paths: list[str] = []
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
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
        async with self._connected() as (server, to_server):
            to_server.write(head + body)
            answer = await server.read()
        if self.before is not None:
            await self.before(self.paths[-1])
        if fault != "lost":
            to_client.write(answer)
            await to_client.drain()
            to_client.close()
