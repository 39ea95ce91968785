"""Lease port over a line to an ingress process, with the Serve handle as its fallback.

A line is a connection over a Unix socket on the same machine, or over TCP from another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, cast

from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import (
    Ask,
    Finish,
    LeaseKey,
    Presence,
    Report,
    ReportReply,
    Verdict,
    Work,
)
from serve_app.domain.ports import LeasePort
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.serialization import FrameStream, Handshake

# Client end of a line from a replica to an ingress process.

PATIENCE_S, ASK_PATIENCE_S = 9.0, 25.0
"""Longest time until a reply, in seconds; a lease poll waits for work at the ingress. If a call is
cancelled after this time (``ReplicaConfig`` sets when), the ingress process is stuck."""


class LocalClient(FrameStream):
    """Connection that calls methods of the lease port. ``Unavailable`` if it breaks before the
    reply; it is then unknown if the call was processed."""

    def __init__(
        self, patience_s: float = PATIENCE_S, ask_patience_s: float = ASK_PATIENCE_S
    ) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._ask_patience_s = ask_patience_s
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._leaving = False

    @property
    def accepts_calls(self) -> bool:
        """False if the connection is closed or the ingress process has announced that it closes."""
        return self.open and not self._leaving

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method. If the call is cancelled, it is cancelled at the other end too."""
        if not self.accepts_calls:
            raise _connection_lost()
        loop = asyncio.get_running_loop()
        self._number += 1
        number = self._number
        stuck_at = loop.time() + (self._ask_patience_s if method == "ask" else self._patience_s)
        answer: asyncio.Future[Any] = loop.create_future()
        self.send((number, method, arguments))
        self._waiting[number] = answer
        try:
            return await answer
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None:
                self._give_up(number, stuck=loop.time() > stuck_at)
            raise

    def message_received(self, message: Any) -> None:
        number, succeeded, answer = message
        if number == 0:
            self._leaving = True
        elif (waiting := self._waiting.pop(number, None)) is not None and not waiting.done():
            if succeeded:
                waiting.set_result(answer)
            else:
                waiting.set_exception(answer)

    def lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(_connection_lost())

    def _give_up(self, number: int, *, stuck: bool) -> None:
        self.send((number, None, ()))
        if stuck:
            self.close()


def _connection_lost() -> Unavailable:
    return Unavailable("The connection to the ingress broke.")


log = logging.getLogger(__name__)

RECONNECT_S = 10.0

RemoteLine = tuple[str, int, bytes]
"""Address and port of an ingress process for other machines, and the key to be proved."""


async def connect_remote(host: str, port: int, key: bytes) -> LocalClient:
    """Line over TCP. ``OSError`` if there is none, or the other end does not know the key."""
    loop = asyncio.get_running_loop()
    _, handshake = await loop.create_connection(
        lambda: Handshake(key, LocalClient, serves=False), host, port
    )
    return cast("LocalClient", await handshake.stream)


async def _no_line() -> RemoteLine | None:
    return None


class LocalLeasePort:
    """Lease port over a line, or over ``handle`` while there is none.

    A handle call costs each side several times the CPU and the time of a call over a line
    (docs/adr/0013 has the figures). Call it from one event loop only. Errors are the
    ingress's own, the handle's, or ``Unavailable`` if the connection breaks: the next call then
    uses the handle, while a new connection is opened.
    """

    def __init__(
        self,
        handle: LeasePort,
        find_path: Callable[[], Awaitable[str]],
        reconnect_s: float = RECONNECT_S,
        find_remote: Callable[[], Awaitable[RemoteLine | None]] = _no_line,
    ) -> None:
        """``find_path`` asks an ingress process for its socket's path; empty if it has none.
        ``find_remote`` asks one for its port, if no such socket is on this machine."""
        self._handle = handle
        self._find_path = find_path
        self._find_remote = find_remote
        self._reconnect_s = reconnect_s
        self._client: LocalClient | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Close the connection for good: every later call uses the handle."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._client is not None:
            self._client.close()

    async def announce(self, presence: Presence) -> Work | None:
        if (client := self._ready()) is not None:
            return await client.call("announce", presence)
        return await self._handle.announce(presence)

    async def ask(self, ask: Ask) -> Work:
        if (client := self._ready()) is not None:
            return await client.call("ask", ask)
        return await self._handle.ask(ask)

    async def report(self, report: Report) -> ReportReply:
        if (client := self._ready()) is not None:
            return await client.call("report", report)
        return await self._handle.report(report)

    async def finish(self, finish: Finish) -> Verdict:
        if (client := self._ready()) is not None:
            return await client.call("finish", finish)
        return await self._handle.finish(finish)

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        if (client := self._ready()) is not None:
            return await client.call("hand_back", lease_key, replica_id, reason, snapshot)
        return await self._handle.hand_back(lease_key, replica_id, reason, snapshot)

    def _ready(self) -> LocalClient | None:
        if self._client is not None and self._client.accepts_calls:
            return self._client
        if not self._closed and (self._connecting is None or self._connecting.done()):
            self._connecting = asyncio.create_task(self._connect(), name="line")
        return None

    async def _connect(self) -> None:
        """Retry until there is a connection."""
        while True:
            try:
                async with asyncio.timeout(self._reconnect_s):
                    path = await self._find_path()
                    if path and await asyncio.to_thread(os.path.exists, path):
                        loop = asyncio.get_running_loop()
                        _, self._client = await loop.create_unix_connection(LocalClient, path)
                        return
                    if (remote := await self._find_remote()) is not None:
                        self._client = await connect_remote(*remote)
                        log.info("The ingress at %s is called over TCP, port %d.", *remote[:2])
                        return
            except Exception as error:
                # Any error is acceptable here: calls fall back to the handle.
                log.debug("No line to the ingress: %r", error)
            await asyncio.sleep(self._reconnect_s)
