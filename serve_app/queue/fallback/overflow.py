"""Queued requests that would wait too long in their own pool: they fall back.

One process, chosen by election, looks about once a second. Requests of the own pool are never
taken from a replica: only those that would start too late there leave, from the back of the queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serve_app.domain.executors.fallback import FallbackMove, FallbackReason, Fallbacks
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority, Request, State
from serve_app.postgres.database import Database
from serve_app.queue.state.duty_cycle import DutyCycle
from serve_app.queue.state.positions import QueuePosition
from serve_app.queue.state.queue_state import QueueState

AT_ONCE = 2000
"""Requests of a pool in one look, from the front of its queue."""
DUTY_FACTOR = 5
"""A slow look is made less often: at most a fifth of the time is spent looking."""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A queued request that may fall back."""

    request: Request
    place: QueuePosition
    waited_s: float
    max_wait_s: float
    start_left_s: float | None  # until it expires unless it has started; None: it does not
    end_left_s: float | None  # until it expires unless it has ended
    runs_s: float | None  # in its own pool; None: not known


def choose(
    waiting: Sequence[WaitingRequest],
    starts_in_s: Callable[[Request, QueuePosition], float | None],
) -> Sequence[FallbackMove]:
    """Requests of one pool that would start too late behind those that stay. Pure.

    ``starts_in_s``: seconds until a request starts at a position; None: not known, as without any
    replica. Then it falls back when it has waited for as long as it may.
    """
    moves: list[FallbackMove] = []
    for candidate in sorted(waiting, key=lambda waiter: waiter.place.position):
        ahead = candidate.place.after(len(moves))
        starts_s = starts_in_s(candidate.request, ahead)
        if (reason := _too_late(candidate, starts_s)) is not None:
            moves.append(FallbackMove(candidate.request.id, reason))
    return moves


def _too_late(candidate: WaitingRequest, starts_s: float | None) -> FallbackReason | None:
    if candidate.waited_s + (starts_s or 0.0) > candidate.max_wait_s:
        return FallbackReason.MAX_WAIT
    if starts_s is None:
        return None
    late_start = candidate.start_left_s is not None and starts_s > candidate.start_left_s
    ends_s = starts_s + (candidate.runs_s or 0.0)
    late_end = candidate.end_left_s is not None and ends_s > candidate.end_left_s
    return FallbackReason.DEADLINE if late_start or late_end else None


_MAY_MOVE = "r.state = 'queued' AND r.fallback IS NOT NULL AND r.fell_back_to IS NULL"
# In the order of the index, and so many of each pool: a long queue hides no other one.
READ = f"""
-- name: find_overflow
WITH RECURSIVE each AS (
    (SELECT r.pool FROM requests r WHERE {_MAY_MOVE} ORDER BY r.pool LIMIT 1)
    UNION ALL
    SELECT (SELECT r.pool FROM requests r WHERE {_MAY_MOVE} AND r.pool > e.pool
            ORDER BY r.pool LIMIT 1)
    FROM each e WHERE e.pool IS NOT NULL
)
SELECT r.fallback ->> 'endpoint',
       r.id::text, r.tenant, r.endpoint, r.pool, r.priority, r.created_at, r.work,
       extract(epoch FROM now() - r.created_at)::double precision,
       (r.fallback ->> 'max_wait_s')::double precision,
       extract(epoch FROM r.start_by - now())::double precision,
       extract(epoch FROM r.end_by - now())::double precision
FROM each e CROSS JOIN LATERAL (
    SELECT * FROM requests r
    WHERE r.pool = e.pool AND {_MAY_MOVE}
      AND r.snapshot IS NULL AND r.fallback ->> 'max_wait_s' IS NOT NULL
    ORDER BY r.ranked_at, r.place LIMIT {AT_ONCE}) r
"""


class Overflow:
    """Finds the requests that fall back before they have started."""

    def __init__(
        self, database: Database, clock: Clock, state: QueueState, fallbacks: Fallbacks
    ) -> None:
        self._database = database
        self._state = state
        self._fallbacks = fallbacks
        self._duty = DutyCycle(clock, DUTY_FACTOR)

    async def look(self) -> None:
        """Move what would start too late."""
        if self._duty.is_due():
            with self._duty.run():
                await self._look()

    async def _look(self) -> None:
        halted = self._state.pauses.halted_endpoints()
        # What has moved to an endpoint that is paused could not come back; and one that is drained
        # accepts nothing new.
        rows = [row for there, *row in await self._database.rows(READ) if there not in halted]
        queued = [_waiting_since(*row) for row in rows]
        if queued:
            # A move costs money, so it is decided by what runs and waits at this moment.
            await self._state.stats.refresh_starts(request for request, _ in queued)
        by_pool: dict[str, list[WaitingRequest]] = defaultdict(list)
        for request, times in queued:
            if not self._is_held_back(request):
                by_pool[request.pool].append(await self._waiting(request, times))
        for waiting in by_pool.values():
            await self._fallbacks.move(choose(waiting, self._starts_in_s))

    def _is_held_back(self, request: Request) -> bool:
        """True if it would not start elsewhere either, because it is paused or at a limit."""
        paused = request.endpoint in self._state.pauses.paused_endpoints()
        return paused or bool(self._state.eta.limit_reached(request))

    async def _waiting(self, request: Request, times: tuple[Any, ...]) -> WaitingRequest:
        # Deeper than the read of the positions goes: it is taken for the next one.
        place = await self._state.positions.of(request, lambda: (0, 0))
        return WaitingRequest(request, place, *times, runs_s=self._state.eta.until_end_s(request))

    def _starts_in_s(self, request: Request, place: QueuePosition) -> float | None:
        starts_s = self._state.eta.until_start_s(request, place)
        if starts_s is None and request.pool in self._state.stats.startable:
            return self._state.eta.until_replica(request, place)[1]
        return starts_s


_NO_INPUT: Mapping[str, Any] = {}


def _waiting_since(
    id_: str,
    tenant: str,
    endpoint: str,
    pool: str,
    priority: int,
    created_at: datetime,
    work: float,
    *times: float | None,
) -> tuple[Request, tuple[float | None, ...]]:
    """Request of a row of ``READ``, and its ``times`` as ``WaitingRequest`` takes them."""
    request = Request(
        id=id_,
        tenant=tenant,
        endpoint=endpoint,
        pool=pool,
        state=State.QUEUED,
        input=_NO_INPUT,
        priority=Priority(priority),
        attempt=0,
        failures=0,
        created_at=created_at,
        work=work,
    )
    return request, times
