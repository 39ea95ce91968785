"""Webhook receiver on a real socket, with responses that the test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True)
class Reply:
    """Response of the receiver. ``hangs``: no response. ``endless``: a byte of the body every
    50 ms, forever."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    hangs: bool = False
    endless: bool = False


Script = Callable[[Received, int], Reply]
"""Response chosen from the received call and the number of earlier calls."""


def always(reply: Reply) -> Script:
    return lambda _received, _before: reply


def each(*replies: Reply) -> Script:
    """Responses in order; the last one repeats."""
    return lambda _received, before: replies[min(before, len(replies) - 1)]


@dataclass
class Receiver:
    script: Script = field(default_factory=lambda: always(Reply()))
    received: list[Received] = field(default_factory=list[Received])
    connections: int = 0
    most_at_once: int = 0
    port: int = 0
    host: str = "127.0.0.1"  # where it listens

    _at_once: int = 0
    _server: asyncio.Server | None = None
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Start at the port of the previous start, if there was one."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def url(self, path: str = "/hook", host: str | None = None) -> str:
        return f"http://{host or self.host}:{self.port}{path}"

    async def until(self, count: int, within_s: float = 120.0) -> list[Received]:
        async with asyncio.timeout(within_s):
            while len(self.received) < count:
                self._came.clear()
                await self._came.wait()
        return self.received

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        received = Received(head[0].split()[1], headers, body)
        before = len(self.received)
        self.received.append(received)
        self._came.set()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(writer, self.script(received, before))
        finally:
            self._at_once -= 1

    async def _answer(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        if reply.hangs:
            await asyncio.Event().wait()
        length = "" if reply.endless else "content-length: 2\r\n"
        more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        writer.write(f"HTTP/1.1 {reply.status} X\r\n{length}{more}\r\n".encode())
        while reply.endless:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"ok")
        await writer.drain()
        return True
