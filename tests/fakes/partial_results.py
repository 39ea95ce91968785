"""Partial results of requests in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from serve_app.domain.errors import Fenced
from serve_app.domain.lease import LeaseKey, Report
from serve_app.domain.ports import Queue
from serve_app.domain.progress import MAX_PARTIALS_READ, PartialPosition, PartialResult


class FakePartialResults:
    """Implements ``domain.ports.PartialResults``."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._stored: dict[str, dict[PartialPosition, PartialResult]] = defaultdict(dict)
        self._added = asyncio.Condition()

    async def add(self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int) -> None:
        if lease_key in (await self._queue.report(Report("", (lease_key,)))).fenced:
            raise Fenced("Only the holder of a lease may add partial results.")
        stored = self._stored[lease_key.request_id]
        for position in [*stored]:
            if position[0] == lease_key.attempt and position[1] < first:
                del stored[position]
        for value in values:
            if value.number >= first:
                stored.setdefault((lease_key.attempt, value.number), value)
        async with self._added:
            self._added.notify_all()

    async def after(
        self, tenant: str, request_id: str, seen: PartialPosition
    ) -> Sequence[PartialResult]:
        request = await self._queue.get(tenant, request_id)
        stored = self._stored.get(request.id, {})
        return [stored[key] for key in sorted(stored) if key > seen][:MAX_PARTIALS_READ]

    async def wait(self, request_id: str, timeout_s: float) -> None:
        del request_id
        async with self._added:
            try:
                await asyncio.wait_for(self._added.wait(), timeout_s)
            except TimeoutError:
                return
