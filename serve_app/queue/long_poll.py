"""Asking for work: an ask gets what is queued at once, or waits for what comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import Ask, Held, Lease, Signal, SignalKind, Work
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import LeaseTerms
from serve_app.domain.request import Priority, Request
from serve_app.queue import wording
from serve_app.queue.census import Census
from serve_app.queue.charges import Charges
from serve_app.queue.database import Database
from serve_app.queue.endings import Ending, How
from serve_app.queue.lanes import Lanes
from serve_app.queue.leasing import lease
from serve_app.queue.limits import QueueLimits
from serve_app.queue.rows import Stored
from serve_app.queue.submit import Offer
from serve_app.queue.waiting_room import Waiter, WaitingRoom
from serve_app.queue.watch import Watch
from serve_app.telemetry.logs import about, request_id

log = logging.getLogger(__name__)

MOST_AT_ONCE = 64

HELD = """
SELECT n.id::text, n.attempt,
       coalesce(r.state = 'running' AND r.attempt = n.attempt, false), r.cancel_requested
FROM json_to_recordset(%(held)s::json) AS n(id uuid, attempt integer)
LEFT JOIN requests r ON r.id = n.id
"""


class Asks:
    """``end`` ends attempts, soon, and tells everybody."""

    def __init__(
        self,
        database: Database,
        terms: LeaseTerms,
        limits: QueueLimits,
        room: WaitingRoom,
        watch: Watch,
        census: Census,
        lanes: Lanes,
        charges: Charges,
        end: Callable[[Sequence[Ending]], object],
    ) -> None:
        self._database = database
        self._terms = terms
        self._limits = limits
        self._room = room
        self._watch = watch
        self._census = census
        self._lanes = lanes
        self._charges = charges
        self._end = end
        # A pool is in here when nothing is queued in it, as far as this process knows.
        self._drained: set[str] = set()
        self._leasing: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def ask(self, ask: Ask) -> Work:
        waiter = self._room.enter(ask)
        self._lease_soon(ask.pool)
        try:
            await self._wait(waiter)
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        self._room.leave(waiter)
        return Work(tuple(waiter.leases), tuple(waiter.signals))

    def stir(self, pools: Iterable[str]) -> None:
        """Something was queued there, or may have been."""
        for pool in pools:
            self._drained.discard(pool)
            self._lease_soon(pool)

    def stir_all(self) -> None:
        """Look in every pool again."""
        self._drained.clear()
        for pool in self._room.pools():
            self._lease_soon(pool)

    def drained(self, pool: str) -> bool:
        """Nothing is queued there, as far as this process knows."""
        return pool in self._drained and pool not in self._leasing

    async def look_for_signals(self) -> None:
        """Ask the database what became of all that is held by those who wait here."""
        held = self._room.held()
        if not held:
            return
        named = [{"id": each.request_id, "attempt": each.attempt} for each in held]
        rows = await self._database.rows(HELD, {"held": wording.compact(named)})
        for id_, attempt, holds, cancelled in rows:
            if not holds:
                self._room.signal([Signal(SignalKind.FENCED, Held(id_, attempt))])
            elif cancelled:
                self._room.signal([Signal(SignalKind.CANCEL, Held(id_, attempt))])

    async def aclose(self) -> None:
        self._closed = True
        self._room.close()
        await asyncio.gather(*self._leasing.values(), return_exceptions=True)

    def give(self, waiter: Waiter, request: Request, input: Mapping[str, Any]) -> None:
        """A lease of ``request``, whose whole input is ``input``, was committed for ``waiter``."""
        try:
            granted = self._granted(request, input)
        except Exception as error:
            # A broken catalogue or storage setting must not hold up the ask.
            with about(request.id):
                log.exception("The terms of a lease of request %s could not be made", request.id)
            granted = wording.no_terms(error)
        if isinstance(granted, Lease):
            if not self._room.give(waiter, granted):
                self._undo([granted])
            return
        self._room.release(waiter)
        failure = granted.failure
        how = How.RETRY if failure and failure.retryable else How.FAILED
        message = failure.message if failure else ""
        self._end([Ending(Held(request.id, request.attempt), how, message, granted)])

    def _granted(self, request: Request, input: Mapping[str, Any]) -> Lease | Outcome:
        endpoint = self._terms.endpoint(request.endpoint)
        if endpoint is None:
            return wording.endpoint_gone(request.endpoint)
        return Lease(
            request_id=request.id,
            attempt=request.attempt,
            expires_in_s=self._limits.first_lease_s,
            endpoint=endpoint,
            input=input,
            upload_tickets=self._tickets(request, endpoint, input),
            priority=request.priority,
            deadline_s=_remaining_s(request),
            alone=request.alone,
            snapshot_url=None
            if request.snapshot is None
            else self._terms.snapshot_url(request.snapshot.key),
            files_url=self._terms.files_url,
        )

    def _tickets(
        self, request: Request, endpoint: Endpoint, input: Mapping[str, Any]
    ) -> tuple[UploadTicket, ...]:
        if request.priority is Priority.REALTIME:
            return ()  # nothing of a session goes to storage
        return self._terms.tickets(request.id, request.attempt, endpoint, input)

    # How it works

    async def _wait(self, waiter: Waiter) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.ask_wait_s
        while not waiter.ready:
            left_s = end - loop.time()
            if left_s <= 0:
                waiter.open = False
                if waiter.ready:
                    return
            waiter.stirred.clear()
            # Past its time it waits only for a statement that may be leasing to it.
            timer = loop.call_later(left_s if left_s > 0 else 1.0, waiter.stirred.set)
            try:
                await waiter.stirred.wait()
            finally:
                timer.cancel()

    def _abandon(self, waiter: Waiter) -> None:
        waiter.gone = True
        self._room.leave(waiter)
        if waiter.leases:
            self._undo(waiter.leases)

    def _undo(self, leases: Sequence[Lease]) -> None:
        self._end(
            [
                Ending(each.held, How.UNDO, "The replica went away before it got it")
                for each in leases
            ]
        )

    def _lease_soon(self, pool: str) -> None:
        if pool in self._drained or pool in self._leasing or self._closed:
            return
        if self._room.wanted(pool):
            task = asyncio.create_task(self._lease(pool))
            self._leasing[pool] = task

    async def _lease(self, pool: str) -> None:
        """Lease what is queued to those who wait, until one or the other runs out."""
        request_id.set(None)  # The submit that it began with may be another tenant's.
        try:
            while pool not in self._drained and not self._closed:
                waiters = self._room.reserve(pool, MOST_AT_ONCE)
                if not waiters:
                    break
                self._drained.add(pool)  # unless somebody stirs meanwhile
                more = await self._lease_to(pool, waiters)
                if not more and pool in self._drained and any(w.ask.coming for w in waiters):
                    self._drained.discard(pool)  # others may take what these do not
                    break
                if more:
                    self._drained.discard(pool)
        except DatabaseUnavailable as error:
            # The next look, within a second, tries again.
            self._drained.discard(pool)
            log.warning("Nothing can be leased: %s", error.message)
        except Exception:
            self._drained.discard(pool)
            log.exception("Leasing in pool %s failed", pool)
        finally:
            del self._leasing[pool]

    async def _lease_to(self, pool: str, waiters: Sequence[Waiter]) -> bool:
        """Whether more may be queued. Those that have the same weights loaded, and download the
        same, go together."""
        left = [*waiters]
        more = True
        try:
            while left and more:
                like, alike, others = _like(left[0]), list[Waiter](), list[Waiter]()
                for each in left:
                    (alike if _like(each) == like else others).append(each)
                left = others
                more = await self._lease_alike(pool, alike, *like) or bool(like[1] and left)
        finally:
            for waiter in left:
                self._room.release(waiter)
        return more

    async def _lease_alike(
        self, pool: str, waiters: Sequence[Waiter], hot: frozenset[str], coming: frozenset[str]
    ) -> bool:
        left = dict(enumerate(waiters))
        charges = self._charges.take(pool)
        try:
            offers = [Offer(each.ask.replica_id, each.ask.actor_id) for each in waiters]
            leased = await lease(self._database, pool, offers, hot, coming, self._limits, charges)
            charges = {}
            for n, found, whole in leased.found:
                self._leased(left.pop(n), found, whole)
            if leased.drained:
                # Whoever submitted meanwhile saw them awake.
                self._lanes.look_again_soon((pool, tenant) for tenant in leased.drained)
            return leased.more
        finally:
            self._charges.restore(pool, charges)
            for waiter in left.values():
                self._room.release(waiter)

    def _leased(self, waiter: Waiter, found: Stored, input: Mapping[str, Any]) -> None:
        request = found.request
        self._census.left(request.pool, request.tenant, request.endpoint)
        self._watch.learn(found)
        self.give(waiter, request, input)


def _like(waiter: Waiter) -> tuple[frozenset[str], frozenset[str]]:
    """What is loaded there, and what is downloaded."""
    return frozenset(waiter.ask.hot), frozenset(waiter.ask.coming)


def _remaining_s(request: Request) -> float | None:
    """Of its time in all, at its lease: both times are the database's."""
    if request.end_by is None or request.started_at is None:
        return None
    return (request.end_by - request.started_at).total_seconds()
