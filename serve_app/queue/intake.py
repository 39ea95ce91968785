"""Taking requests in: caps, batches, and the ask that waits for exactly this."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from serve_app.domain.request import NewRequest, Request
from serve_app.queue.asks import Asks
from serve_app.queue.batcher import Batcher
from serve_app.queue.census import Census
from serve_app.queue.database import Database
from serve_app.queue.lanes import Lanes
from serve_app.queue.submit import Accepted, Offer, submit
from serve_app.queue.waiting_room import Waiter, WaitingRoom
from serve_app.queue.wakeups import Wakeups
from serve_app.queue.watch import Watch


class Intake:
    def __init__(
        self,
        database: Database,
        first_lease_s: float,
        room: WaitingRoom,
        asks: Asks,
        watch: Watch,
        census: Census,
        lanes: Lanes,
        wakeups: Wakeups,
    ) -> None:
        self._database = database
        self._first_lease_s = first_lease_s
        self._room = room
        self._asks = asks
        self._watch = watch
        self._census = census
        self._lanes = lanes
        self._wakeups = wakeups
        self._batcher: Batcher[NewRequest, Request] = Batcher(self._run)

    async def submit(self, new: NewRequest) -> Request:
        """Once begun it goes on, also when the caller goes away."""
        await self._census.admit(new.pool, new.tenant)
        try:
            return await self._batcher.put(new)
        except asyncio.CancelledError:
            raise
        except Exception:
            self._census.refused(new.pool, new.tenant)
            raise

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _run(self, batch: Sequence[NewRequest]) -> Sequence[Request | BaseException]:
        await self._lanes.open((new.pool, int(new.priority), new.tenant) for new in batch)
        waiters = self._reserve(batch)
        offered = [(new, _offer(waiters.get(new.id))) for new in batch]
        try:
            accepted = await submit(self._database, offered, self._first_lease_s)
        except BaseException:
            for waiter in waiters.values():
                self._room.release(waiter)
            raise
        for each in accepted:
            self._stored(each, waiters.get(each.request.id))
        self._tell([each.request for each in accepted if not each.leased])
        return [each.request for each in accepted]

    def _reserve(self, batch: Sequence[NewRequest]) -> dict[str, Waiter]:
        """By request: an ask that waits here for its pool, while nothing is queued in it."""
        wanted = Counter(new.pool for new in batch)
        free = {
            pool: iter(self._room.reserve(pool, count))
            for pool, count in wanted.items()
            if self._asks.drained(pool)
        }
        found: dict[str, Waiter] = {}
        for new in sorted(batch, key=lambda each: -each.priority):
            waiter = next(free[new.pool], None) if new.pool in free else None
            if waiter is not None:
                found[new.id] = waiter
        return found

    def _stored(self, accepted: Accepted, waiter: Waiter | None) -> None:
        request = accepted.request
        self._watch.learn_new(request, accepted.version)
        self._census.entered(request)
        if accepted.leased and waiter is not None:
            self._asks.give(waiter, request)
        elif waiter is not None:
            self._room.release(waiter)

    def _tell(self, queued: Sequence[Request]) -> None:
        if queued:
            pools = {request.pool for request in queued}
            self._asks.stir(pools)
            self._wakeups.tell(pools=pools)
            self._lanes.look_again_soon(
                (request.pool, int(request.priority), request.tenant) for request in queued
            )


def _offer(waiter: Waiter | None) -> Offer | None:
    return None if waiter is None else Offer(waiter.ask.replica_id, waiter.ask.actor_id)
