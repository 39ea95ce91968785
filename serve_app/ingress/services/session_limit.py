"""Limit of open realtime sessions per tenant.

A session holds a slot as long as it is open, also when it is idle. The ingress process that serves
sessions counts them, which refuses most of what is too much without a statement. The limit counts
over all ingress replicas: each session is a request, and these are counted before and after it is
stored. Of sessions that begin at the same moment for the last place, perhaps none gets it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from serve_app.domain.errors import Overloaded
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest
from serve_app.settings import Config, overflow_pools

RETRY_S = 5.0
RELEASE_S = 3.0
"""Longest time in which a session that its client closed, perhaps to connect again, is released."""
POLL_S = 0.1


def max_sessions(config: Config, pool: str) -> int | None:
    """Largest number of sessions of a tenant in a pool: the setting, or half of the slots that the
    pool and those that take its overflow can have, at least one. None for a pool whose size is not
    known."""
    if config.limits.max_sessions_per_tenant is not None:
        return config.limits.max_sessions_per_tenant
    pools = config.models.pools or {}
    chain = overflow_pools(pools).chain(pool)
    slots = sum(pools[name].max_slots * pools[name].max_replicas for name in chain if name in pools)
    return max(1, slots // 2) if pool in pools else None


class SessionCounts:
    """Open sessions by pool and tenant, of this process. Use on one event loop."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def count(self, pool: str, tenant: str, most: int | None) -> AsyncGenerator[None]:
        """Count a session while the block runs. ``Overloaded``: ``most`` stay open."""
        key = pool, tenant
        if most is not None:
            await _wait_for_room(partial(self._number, key), most)
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    async def _number(self, key: tuple[str, str]) -> int:
        return self._open[key]


def too_many_sessions(number: int) -> Overloaded:
    return Overloaded(
        f"You have {number} open realtime sessions, the most that one tenant can have here at "
        "once. Close one of them first.",
        RETRY_S,
        "sessions_limit",
    )


async def wait_for_room(queue: Queue, session: NewRequest, most: int) -> None:
    """Wait until the tenant of a ``session`` that is not stored yet has fewer than ``most``, for a
    moment only, and raise ``Overloaded`` then."""
    await _wait_for_room(partial(queue.open_sessions, session.tenant, session.pool), most)


async def _wait_for_room(count: Callable[[], Awaitable[int]], most: int) -> None:
    end = asyncio.get_running_loop().time() + RELEASE_S
    while (number := await count()) >= most:
        if asyncio.get_running_loop().time() >= end:
            raise too_many_sessions(number)
        await asyncio.sleep(POLL_S)
