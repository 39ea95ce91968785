"""Proxy that cuts connections, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.queue.database import Background

SUBMIT = b"POST /queue/"


class Cutter:
    """Proxy that forwards bytes. For the next ``to_cut`` submits it reads the beginning of the
    server's response, sends none of it to the client, and closes both connections."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.to_cut = 0

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
        server, to_server = await asyncio.open_connection(
            self._upstream.hostname, self._upstream.port
        )
        submitting = asyncio.Event()

        async def calls() -> None:
            while data := await client.read(65536):
                if data.startswith(SUBMIT):
                    submitting.set()
                to_server.write(data)

        async def answers() -> None:
            while data := await server.read(65536):
                if submitting.is_set() and self.to_cut:
                    self.to_cut -= 1
                    return
                submitting.clear()
                to_client.write(data)

        tasks = [asyncio.create_task(each()) for each in (calls, answers)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for writer in (to_client, to_server):
                writer.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def cutting(upstream: str) -> Iterator[tuple[Cutter, str]]:
    """A cutter before ``upstream``, and its own address."""
    cutter = Cutter(upstream)
    with Background() as background:
        yield cutter, background.run(cutter.start())
        background.run(cutter.aclose())
