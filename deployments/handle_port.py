"""The lease port over a Serve handle."""

from __future__ import annotations

import asyncio
from typing import Any

from serve_app.domain.lease import Ask, Finish, Held, Presence, Report, ReportReply, Verdict, Work


class HandleLeasePort:
    """Calls the ingress deployment. All calls from one event loop: a handle's router is not
    thread-safe. Errors are the ingress's own, or Ray's when it is away."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def announce(self, presence: Presence) -> None:
        await _answer(self._handle.announce.remote(presence))

    async def ask(self, ask: Ask) -> Work:
        return await _answer(self._handle.ask.remote(ask))

    async def report(self, report: Report) -> ReportReply:
        return await _answer(self._handle.report.remote(report))

    async def finish(self, finish: Finish) -> Verdict:
        return await _answer(self._handle.finish.remote(finish))

    async def hand_back(self, held: Held, replica_id: str, reason: str) -> Verdict:
        return await _answer(self._handle.hand_back.remote(held, replica_id, reason))


async def _answer(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        # Else the ingress goes on with a call whose answer nobody takes.
        response.cancel()
        raise
