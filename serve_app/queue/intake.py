"""Taking requests in: caps, batches, and the ask that waits for exactly this."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from serve_app.domain.errors import DarkroomError, Unavailable
from serve_app.domain.request import NewRequest, Request
from serve_app.queue.asks import Asks
from serve_app.queue.batcher import Batcher
from serve_app.queue.census import Census
from serve_app.queue.charges import Charges
from serve_app.queue.costs import Costs
from serve_app.queue.database import Database
from serve_app.queue.lanes import Lanes
from serve_app.queue.large_inputs import Encoded
from serve_app.queue.limits import QueueLimits
from serve_app.queue.repeats import Repeats
from serve_app.queue.reuse import Reuse
from serve_app.queue.submit import Accepted, New, Offer, submit
from serve_app.queue.waiting_room import Waiter, WaitingRoom
from serve_app.queue.wakeups import Wakeups
from serve_app.queue.watch import Watch

STATEMENT_CHARACTERS = 4 * 2**20
"""Of inputs that are stored together. Each connection keeps the memory of its longest statement."""

Arrived = tuple[NewRequest, Encoded]


class Intake:
    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        room: WaitingRoom,
        asks: Asks,
        watch: Watch,
        census: Census,
        lanes: Lanes,
        wakeups: Wakeups,
        repeats: Repeats,
        reuse: Reuse,
        costs: Costs,
        charges: Charges,
        settle: Callable[[Iterable[str]], object],
    ) -> None:
        """``settle`` looks, soon, after those that follow somebody who may have ended."""
        self._database = database
        self._limits = limits
        self._room = room
        self._asks = asks
        self._watch = watch
        self._census = census
        self._lanes = lanes
        self._wakeups = wakeups
        self._repeats = repeats
        self._reuse = reuse
        self._costs = costs
        self._charges = charges
        self._settle = settle
        self._batcher = self._made_batcher()
        # Apart, because they wait for others that store the same.
        self._alike = self._made_batcher()

    def _made_batcher(self) -> Batcher[Arrived, Request]:
        return Batcher(self._run, weigh=_size, max_weight=STATEMENT_CHARACTERS)

    async def submit(self, new: NewRequest, most_queued: int | None = None) -> Request:
        """Once begun it goes on, also when the caller goes away."""
        reusing = await self._reuse.store(new)
        if reusing is not None:
            self._watch.learn(reusing)
            return reusing.request
        free = self._room.slots(new.pool)
        await self._census.admit(new.pool, new.tenant, new.endpoint, most_queued, free)
        try:
            return await (self._alike if new.reuse_digest else self._batcher).put(
                (new, Encoded(new.input))
            )
        except asyncio.CancelledError:
            raise
        except Exception:
            self._census.refused(new.pool, new.tenant, new.endpoint)
            raise

    async def repeated(self, new: NewRequest) -> Request | None:
        earlier = await self._repeats.of(new) or await self._repeats.take_undelivered(new)
        if earlier is None:
            return None
        self._watch.learn(earlier)
        return earlier.request

    async def aclose(self) -> None:
        await self._batcher.aclose()
        await self._alike.aclose()

    async def _run(self, batch: Sequence[Arrived]) -> Sequence[Request | BaseException]:
        await self._lanes.open((new.pool, new.tenant) for new, _ in batch)
        waiters = self._reserve([new for new, _ in batch])
        offered = [self._new(new, encoded, waiters.get(new.id)) for new, encoded in batch]
        try:
            accepted = await submit(self._database, offered, self._limits.first_lease_s)
        except BaseException:
            for waiter in waiters.values():
                self._room.release(waiter)
            raise
        for (new, _), each, waiting in zip(batch, accepted, offered, strict=True):
            self._stored(each, waiters.get(new.id), waiting)
        stored = [each for each in accepted if each is not None]
        self._tell([each.request for each in stored if not each.leased and each.group is None])
        if groups := {each.group for each in stored if each.group is not None}:
            self._settle(groups)
        return [
            await self._repeat(new) if each is None else each.request
            for (new, _), each in zip(batch, accepted, strict=True)
        ]

    async def _repeat(self, new: NewRequest) -> Request | DarkroomError:
        """The request that kept this one from being stored."""
        try:
            earlier = await self.repeated(new)
        except DarkroomError as error:
            return error
        if earlier is None:
            return Unavailable("The request with this key was just deleted: submit again.")
        self._census.refused(new.pool, new.tenant, new.endpoint)
        return earlier

    def _reserve(self, batch: Sequence[NewRequest]) -> dict[str, Waiter]:
        """By request: an ask that waits here for its pool, while nothing is queued in it."""
        found: dict[str, Waiter] = {}
        for new in sorted(batch, key=lambda each: -each.priority):
            # Limits on running are counted only by the statement that leases what is queued.
            if not self._asks.drained(new.pool) or self._limits.limits(new.tenant, new.endpoint):
                continue
            waiter = self._room.reserve_one(new.pool, new.endpoint)
            if waiter is not None:
                found[new.id] = waiter
        return found

    def _new(self, new: NewRequest, input: Encoded, waiter: Waiter | None) -> New:
        expected_s = self._costs.expected_s(new.endpoint, new.pool, new.work)
        return New(new, input, _offer(waiter), expected_s)

    def _stored(self, accepted: Accepted | None, waiter: Waiter | None, new: New) -> None:
        if accepted is None:
            if waiter is not None:
                self._room.release(waiter)
            return
        request = accepted.request
        if accepted.leased:
            self._charges.add(request.pool, request.tenant, new.expected_s)
        self._watch.learn_new(request, accepted.version)
        self._census.entered(request)
        if accepted.leased and waiter is not None:
            self._asks.give(waiter, request, new.request.input)
        elif waiter is not None:
            self._room.release(waiter)

    def _tell(self, queued: Sequence[Request]) -> None:
        if queued:
            pools = {request.pool for request in queued}
            self._asks.stir(pools)
            self._wakeups.tell(pools=pools)
            self._lanes.look_again_soon((request.pool, request.tenant) for request in queued)


def _size(arrived: Arrived) -> int:
    return len(arrived[1].text)


def _offer(waiter: Waiter | None) -> Offer | None:
    return None if waiter is None else Offer(waiter.ask.replica_id, waiter.ask.actor_id)
