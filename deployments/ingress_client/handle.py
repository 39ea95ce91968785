"""The lease port over a Serve handle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from deployments.gathering import Gathering
from serve_app.domain.lease import Ask, Finish, Held, Presence, Report, ReportReply, Verdict, Work
from serve_app.domain.snapshot import StoredSnapshot


class HandleLeasePort:
    """Calls the ingress deployment. All calls from one event loop: a handle's router is not
    thread-safe. Errors are the ingress's own, or Ray's when it is away.

    A handle call costs more than what it carries, on both sides (measured: half a millisecond of
    CPU). So outcomes that are handed in while others are on their way go together in the next call.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._methods: dict[str, Any] = {}
        self._finishes: Gathering[Finish, Verdict] = Gathering(self._finish, self._finish_all)

    async def line(self) -> str:
        """The path of some ingress process's socket for lines; empty: it has none."""
        return await self._call("line")

    async def announce(self, presence: Presence) -> None:
        await self._call("announce", presence)

    async def ask(self, ask: Ask) -> Work:
        return await self._call("ask", ask)

    async def report(self, report: Report) -> ReportReply:
        return await self._call("report", report)

    async def finish(self, finish: Finish) -> Verdict:
        return await self._finishes.call(finish)

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        return await self._call("hand_back", held, replica_id, reason, snapshot)

    async def _finish(self, finish: Finish) -> Verdict:
        return await self._call("finish", finish)

    async def _finish_all(self, finishes: Sequence[Finish]) -> Sequence[Verdict | BaseException]:
        return await self._call("finish_all", finishes)

    async def _call(self, name: str, *arguments: Any) -> Any:
        method = self._methods.get(name)
        if method is None:
            # Kept, because Serve makes a new one each time a handle is asked for a method. Pickle
            # in C: what crosses is ours, and cloudpickle looks at each object in Python.
            method = self._methods[name] = self._handle.options(
                method_name=name, request_serialization="pickle", response_serialization="pickle"
            )
        response = method.remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            # Else the ingress goes on with a call whose answer nobody takes.
            response.cancel()
            raise
