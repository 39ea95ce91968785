"""A file in the body of a call, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import DarkroomError, TooLarge

LOOK_BYTES = 16 * 2**20
"""Taken between two looks at the disk."""

LINGER_S, LINGER_BYTES = 3.0, 64 * 2**20
"""For so long, and so much, a client that is refused is heard out. One that still sends when the
connection is closed may never see the answer."""

Room = Callable[[], Awaitable[None]]


class Incoming:
    """The body in pieces, no more of it than ``max_bytes``.

    ``TooLarge`` comes at the first byte where the client says its size; ``StorageFull`` when
    ``room`` says so, also in the middle.
    """

    def __init__(
        self, request: HttpRequest, max_bytes: int, larger: str, room: Room | None = None
    ) -> None:
        """``larger``: what is said of a larger one."""
        self._request = request
        self._max_bytes = max_bytes
        self._larger = larger
        self._room = room
        self._ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        self._check(self._declared())
        if self._room is not None:
            await self._room()
        size, looked_at = 0, 0
        while not self._ended:
            chunk = await self._receive()
            size += len(chunk)
            self._check(size)
            if self._room is not None and size - looked_at >= LOOK_BYTES:
                looked_at = size
                await self._room()
            if chunk:
                yield chunk

    @asynccontextmanager
    async def heard_out(self) -> AsyncGenerator[None]:
        """Errors of the block are answered when the client has sent the rest, or some of it."""
        try:
            yield
        except DarkroomError:
            await self._hear_out()
            raise

    async def _hear_out(self) -> None:
        heard = 0
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_S):
                while not self._ended and heard < LINGER_BYTES:
                    heard += len(await self._receive())

    def _declared(self) -> int:
        declared = self._request.headers.get("content-length", "")
        return int(declared) if declared.isdecimal() else 0

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(self._larger)

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise ClientDisconnect
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")
