"""Proxy that cuts connections, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.proxy import Proxy
from tests.queue.database import Background

SUBMIT = b"POST /queue/"


class Cutter(Proxy):
    """Proxy that forwards bytes. For the next ``to_cut`` submits it reads the beginning of the
    server's response, sends none of it to the client, and closes both connections."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.to_cut = 0

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        submitting = asyncio.Event()

        async def calls(to_server: asyncio.StreamWriter) -> None:
            while data := await client.read(65536):
                if data.startswith(SUBMIT):
                    submitting.set()
                to_server.write(data)

        async def answers(server: asyncio.StreamReader) -> None:
            while data := await server.read(65536):
                if submitting.is_set() and self.to_cut:
                    self.to_cut -= 1
                    return
                submitting.clear()
                to_client.write(data)

        async with self._connected() as (server, to_server):
            tasks = [
                asyncio.create_task(coroutine) for coroutine in (calls(to_server), answers(server))
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                to_client.transport.abort()
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
