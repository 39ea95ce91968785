"""Leader election among ingress replicas, by rows with a time limit.

A session's advisory lock would do while connections are sound. But a server keeps the session of a
connection that the network has forgotten for as long as nothing tells it otherwise, and then nobody
leads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import LiteralString

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database

LEADS_S = 6.0
"""A leader that is gone is replaced after this time at the latest."""
RENEW_S = 2.0
ALONE_S = 30.0
POLL_S = 0.1

TAKE: LiteralString = """
-- name: lead
INSERT INTO leaders AS l (name, holder, until)
SELECT name, %(holder)s, now() + %(for_s)s * interval '1 second'
FROM unnest(%(names)s::text[]) AS x(name) ORDER BY 1
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE l.holder = excluded.holder OR l.until < now()
RETURNING name
"""
RELEASE: LiteralString = "DELETE FROM leaders WHERE holder = %(holder)s AND name = %(name)s"


class LeaderElection:
    """Leadership by name. A process that died, or whose database is away, leads for ``LEADS_S`` at
    most.

    ``holder``: the id of this process. Two processes may both lead for a moment where their clocks
    run at different speeds, so what a leader does must bear being done twice.
    """

    def __init__(self, database: Database, clock: Clock, holder: str) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder
        self._renew_at: dict[str, float] = {}  # monotonic; names that this process leads

    async def leads(self, name: str, for_s: float = LEADS_S) -> bool:
        """True if this process leads. Takes the leadership if no other process has it. ``for_s``:
        time after which it may be taken from this process if it does not ask again.
        """
        return bool(await self.led_of((name,), for_s))

    async def led_of(self, names: Collection[str], for_s: float = LEADS_S) -> frozenset[str]:
        """Names that this process leads; otherwise as ``leads``."""
        began = self._clock.monotonic()
        due = [name for name in names if began >= self._renew_at.get(name, 0.0)]
        for name in due:
            self._renew_at.pop(name, None)
        if due:
            taken = await self._take(due, for_s)
            self._renew_at |= dict.fromkeys(taken, began + RENEW_S)
        return frozenset(name for name in names if name in self._renew_at)

    def on_leader(
        self, name: str, every_s: float, work: Callable[[], Awaitable[object]]
    ) -> Callable[[], Awaitable[bool]]:
        """``work`` for periodic tasks of all processes, done by one of them. If that one is gone,
        another one does it after three rounds. The result is False if this process does not lead.
        """

        async def elected() -> bool:
            if not await self.leads(name, 3 * every_s):
                return False
            await work()
            return True

        return elected

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncGenerator[None]:
        """Run the block in one process at a time. It must end within ``ALONE_S``."""
        while not await self._take([name], ALONE_S):  # noqa: ASYNC110  another process releases it
            await asyncio.sleep(POLL_S)
        try:
            yield
        finally:
            await self.resign(name)

    async def resign(self, name: str) -> None:
        """Let another process lead."""
        self._renew_at.pop(name, None)
        with contextlib.suppress(DatabaseUnavailable):  # then it runs out
            await self._database.rows(RELEASE, {"name": name, "holder": self._holder})

    async def aclose(self) -> None:
        """Let other processes lead at once."""
        for name in [*self._renew_at]:
            await self.resign(name)

    async def _take(self, names: Collection[str], for_s: float) -> Sequence[str]:
        wanted = {"names": sorted(names), "holder": self._holder, "for_s": for_s}
        return [str(row[0]) for row in await self._database.rows(TAKE, wanted)]
