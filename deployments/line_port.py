"""The lease port over a line, where there is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.line import Line
from serve_app.domain.lease import Ask, Finish, Held, Presence, Report, ReportReply, Verdict, Work
from serve_app.domain.ports import LeasePort
from serve_app.domain.snapshot import StoredSnapshot

log = logging.getLogger(__name__)

DIAL_AGAIN_S = 10.0


class LineLeasePort:
    """Calls the ingress over a line; over ``handle`` while there is none, as on another machine.

    A handle call takes each side several times the CPU of a call over a line, and as much more time
    (docs/adr/0013 has the figures). All calls from one event loop. Errors are the ingress's own,
    the handle's, or ``Unavailable`` when the line breaks: the next call goes over the handle, and
    meanwhile another line is dialled.
    """

    def __init__(
        self,
        handle: LeasePort,
        where: Callable[[], Awaitable[str]],
        dial_again_s: float = DIAL_AGAIN_S,
    ) -> None:
        """``where`` asks some ingress process for the path of its socket; empty: it has none."""
        self._handle = handle
        self._where = where
        self._dial_again_s = dial_again_s
        self._line: Line | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._closed = False

    async def aclose(self) -> None:
        """For the end: every later call goes over the handle."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        if self._line is not None:
            self._line.close()

    async def announce(self, presence: Presence) -> None:
        if (line := self._ready()) is not None:
            return await line.call("announce", presence)
        return await self._handle.announce(presence)

    async def ask(self, ask: Ask) -> Work:
        if (line := self._ready()) is not None:
            return await line.call("ask", ask)
        return await self._handle.ask(ask)

    async def report(self, report: Report) -> ReportReply:
        if (line := self._ready()) is not None:
            return await line.call("report", report)
        return await self._handle.report(report)

    async def finish(self, finish: Finish) -> Verdict:
        if (line := self._ready()) is not None:
            return await line.call("finish", finish)
        return await self._handle.finish(finish)

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        if (line := self._ready()) is not None:
            return await line.call("hand_back", held, replica_id, reason, snapshot)
        return await self._handle.hand_back(held, replica_id, reason, snapshot)

    def _ready(self) -> Line | None:
        if self._line is not None and self._line.takes_calls:
            return self._line
        if not self._closed and (self._dialling is None or self._dialling.done()):
            self._dialling = asyncio.create_task(self._dial(), name="line")
        return None

    async def _dial(self) -> None:
        """Try until there is a line."""
        while True:
            try:
                async with asyncio.timeout(self._dial_again_s):
                    path = await self._where()
                    if path:
                        loop = asyncio.get_running_loop()
                        _, self._line = await loop.create_unix_connection(Line, path)
                        return
            except Exception as error:
                # Whatever it is: there is the handle.
                log.debug("No line to the ingress: %r", error)
            await asyncio.sleep(self._dial_again_s)
