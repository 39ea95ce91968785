"""Partial results of a request, for a client that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.ports import Queue
from serve_app.domain.progress import NOTHING_SEEN, PartialPosition, PartialResult
from serve_app.domain.request import Request

LOOK_AGAIN_S = 0.25
"""Interval at which partial results are read that arrived at another ingress process."""

OUTAGE_S = 10.0
"""Longest absence of the database in seconds that its clients do not notice: a restart or a
failover takes less. The client that gives up first after the last byte does so after 15 s."""


class PartialReader:
    """Reads the partial results of one request in their order. Memory holds one page of them, so a
    slow client costs nothing: those that it has not read stay in the database.

    While the database is away for a moment, all calls wait: the request goes on, and its values
    with it. ``DatabaseUnavailable``: it was away for ``OUTAGE_S``."""

    def __init__(
        self,
        queue: Queue,
        partials: PartialResults,
        request: Request,
        seen: PartialPosition = NOTHING_SEEN,
    ) -> None:
        self._queue = queue
        self._partials = partials
        self._tenant = request.tenant
        self._id = request.id
        self._seen = seen

    async def wait_for_start(self, request: Request, timeout_s: float) -> Request:
        """The request as soon as it has made progress, has a partial result or has ended, or after
        ``timeout_s``."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not request.state.final and request.progress is None and loop.time() < end:
            if await self._page():
                break
            request = await self.wait_for_change(request, end - loop.time())
        return request

    async def new(self) -> AsyncGenerator[PartialResult]:
        """Partial results that have arrived since the last call. Read the request's state
        before it: then none of an ended request is missed."""
        while page := await self._page():
            for result in page:
                self._seen = result.position
                yield result

    async def wait_for_change(self, request: Request, timeout_s: float) -> Request:
        """The request as soon as it has changed since ``request``, as soon as there may be partial
        results, or after ``timeout_s``."""
        wait_s = min(timeout_s, LOOK_AGAIN_S)
        arrived = asyncio.ensure_future(self._partials.wait(self._id, wait_s))
        changing = self._queue.wait_for_change(self._tenant, self._id, wait_s, since=request)
        changed = asyncio.ensure_future(changing)
        try:
            await asyncio.wait((arrived, changed), return_when=asyncio.FIRST_COMPLETED)
            return changed.result() if changed.done() else request
        except DatabaseUnavailable:
            await arrived  # the next read of the results waits for the database
            return request
        finally:
            for future in (arrived, changed):
                future.cancel()
            await asyncio.gather(arrived, changed, return_exceptions=True)

    async def _page(self) -> Sequence[PartialResult]:
        """The next results after those that were seen."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + OUTAGE_S
        while True:
            try:
                return await self._partials.after(self._tenant, self._id, self._seen)
            except DatabaseUnavailable:
                if loop.time() >= give_up_at:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)
