"""HTTP server for input files, on a real socket, that sends slowly."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

BODY = b"all of it"
DRIP_S = 0.02
LATE_S = 0.3


class SlowServer:
    """Server of files by the end of their path.

    ``drip``: one byte every ``DRIP_S``, without an end. ``silent``: headers, then nothing.
    ``no_headers``: nothing at all. ``late``: ``BODY`` after ``LATE_S``. ``held``: ``BODY`` after
    ``release``. Everything else: ``BODY`` at once. ``body`` is sent in place of ``BODY``.
    """

    def __init__(self, body: bytes = BODY) -> None:
        self._body = body
        self.open = 0  # connections with a request
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str) -> str:
        return f"{self.origin}/{path}"

    @property
    def origin(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def release(self) -> None:
        self._released.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.open += 1
            try:
                await self._send(head.split(b" ")[1].rpartition(b"/")[2].decode(), reader, writer)
            finally:
                self.open -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _send(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if name == "no_headers":
            await reader.read()  # until the client disconnects
            return
        if name == "late":
            await asyncio.sleep(LATE_S)
        if name == "held":
            await self._released.wait()
        length = 10**6 if name in ("drip", "silent") else len(self._body)
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        if name == "silent":
            await reader.read()
        while name == "drip":
            writer.write(b"{")  # as a file of weights may begin
            await writer.drain()
            await asyncio.sleep(DRIP_S)
        writer.write(self._body)
        await writer.drain()
