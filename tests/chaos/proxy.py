"""A proxy that breaks connections as a test says: before a server on a port or on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
CHUNK_BYTES = 65536
TURNS = 8
"""Turns of the loop in which connections that were just accepted or aborted close their sockets."""


class Lose(Enum):
    """What becomes of a call that a test waits for; either way its connection is reset."""

    CALL = "call"  # the server never sees it
    ANSWER = "answer"  # the server does what it says, and the client sees nothing of the answer


class Proxy:
    """Passes on what it gets, but for the given exceptions. ``open`` connects to the server."""

    def __init__(self, open: Callable[[], Awaitable[Streams]]) -> None:
        self._open = open
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._opened = asyncio.Event()  # of the connections from now on; see ``freeze``
        self._opened.set()
        self._awaited: dict[bytes, Lose] = {}
        self.delay_s = 0.0  # before whatever is passed on, either way
        self.lost: list[bytes] = []  # the patterns that were met

    async def start(self, host: str = "127.0.0.1") -> int:
        """The port of ``host`` at which it listens."""
        self._server = await asyncio.start_server(self._accept, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for _ in range(TURNS):
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

    def lose(self, pattern: bytes, what: Lose) -> None:
        """Lose the next call that has ``pattern`` in it, once."""
        self._awaited[pattern] = what

    def reset(self) -> None:
        """Break every connection that is open; new ones can be made."""
        for writer in self._writers:
            _reset(writer)

    def blackhole(self) -> None:
        """Pass nothing on; connections are taken, and stay as they are."""
        self._flowing.clear()

    def freeze(self) -> None:
        """Pass nothing on for connections that are open, for ever, as a router that has forgotten
        them. New connections work."""
        self._opened.clear()
        self._opened = asyncio.Event()
        self._opened.set()

    def heal(self) -> None:
        self._flowing.set()
        self.delay_s = 0.0

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(client, to_client, self._opened))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        opened: asyncio.Event,
    ) -> None:
        writers = [to_client]
        self._writers.add(to_client)
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._flowing.wait()
            server, to_server = await self._open()
            writers.append(to_server)
            self._writers.add(to_server)
            losing = asyncio.Event()
            pumps = [
                asyncio.create_task(self._calls(client, to_server, opened, losing)),
                asyncio.create_task(self._answers(server, to_client, opened, losing)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is away: the client sees its connection end
        finally:
            for writer in writers:  # before the wait, which ``aclose`` may cancel
                _reset(writer)
                self._writers.discard(writer)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _calls(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        opened: asyncio.Event,
        losing: asyncio.Event,
    ) -> None:
        while data := await client.read(CHUNK_BYTES):
            pattern = next((candidate for candidate in self._awaited if candidate in data), None)
            if pattern is not None:
                what = self._awaited.pop(pattern)
                self.lost.append(pattern)
                if what is Lose.CALL:
                    return
                losing.set()
            await self._pass_on(data, to_server, opened)

    async def _answers(
        self,
        server: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        opened: asyncio.Event,
        losing: asyncio.Event,
    ) -> None:
        while data := await server.read(CHUNK_BYTES):
            if losing.is_set():
                return
            await self._pass_on(data, to_client, opened)

    async def _pass_on(
        self, data: bytes, writer: asyncio.StreamWriter, opened: asyncio.Event
    ) -> None:
        await self._flowing.wait()
        await opened.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    own = writer.get_extra_info("socket")
    if own is not None and own.family == socket.AF_INET:
        with contextlib.suppress(OSError):  # closed already
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    writer.transport.abort()


def before_postgres(conninfo: str) -> Proxy:
    """A proxy before the server, on a Unix socket, that ``conninfo`` names."""
    parameters = conninfo_to_dict(conninfo)
    place = Path(str(parameters["host"])) / f".s.PGSQL.{parameters['port']}"
    return Proxy(lambda: asyncio.open_unix_connection(str(place)))


def through(conninfo: str, port: int, host: str = "127.0.0.1") -> str:
    """``conninfo`` by way of the proxy at ``port``."""
    return make_conninfo(conninfo, host=host, port=port, sslmode="disable", gssencmode="disable")
