"""A queue whose replicas call over a line, as on one machine: a real socket, both ends here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from deployments.ingress_client.local import LocalClient
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
from serve_app.domain.ports import Queue
from serve_app.domain.progress import StoredSnapshot
from serve_app.ingress.local_rpc import LocalRpcServer


class LinedQueue:
    """``queue`` itself for clients; for replicas over a line in ``directory``."""

    def __init__(self, queue: Queue, directory: Path) -> None:
        self._queue = queue
        self._lines = LocalRpcServer(queue, directory)
        self._line = LocalClient()

    async def start(self) -> None:
        await self._lines.start()
        assert self._lines.path, "the socket could not be made"
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._line, self._lines.path)

    async def aclose(self) -> None:
        self._line.close()
        await self._lines.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def announce(self, presence: Presence) -> Work | None:
        return await self._line.call("announce", presence)

    async def ask(self, ask: Ask) -> Work:
        return await self._line.call("ask", ask)

    async def report(self, report: Report) -> ReportReply:
        return await self._line.call("report", report)

    async def finish(self, finish: Finish) -> Verdict:
        return await self._line.call("finish", finish)

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        return await self._line.call("hand_back", lease_key, replica_id, reason, snapshot)
