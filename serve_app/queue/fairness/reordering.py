"""Whether a leasing has to read far into lanes, because a request behind the first ones of its lane
may go before them.

With a thousand lanes of a hundred requests, the requests that were read and not leased took a third
of a leasing's time, and nearly always for nothing: all that waits in a pool has its weights loaded,
or none has, and hardly any request expires soon.
"""

from __future__ import annotations

from serve_app.domain.lease import LeasePreference
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import DUE_SOON_S, LOOK_NEAR

MAX_AGE_S = 3.0
"""A look that is older is not used."""
BETWEEN_LOOKS_S = 2.0
"""What is due by then may be promoted before the next look."""

LOOK = """
-- name: look_for_due
SELECT DISTINCT pool FROM requests
WHERE state = 'queued' AND start_by < now() + make_interval(secs => %(within_s)s)
"""


class Reordering:
    """What one process knows of requests that may go before older ones of their lane. A request
    that expires soon is known after the next look, once a second."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._looked_at = float("-inf")
        self._due: frozenset[str] = frozenset()  # pools

    async def look(self) -> None:
        """Look for requests that expire soon."""
        at = self._clock.monotonic()
        rows = await self._database.rows(LOOK, {"within_s": DUE_SOON_S + BETWEEN_LOOKS_S})
        self._looked_at, self._due = at, frozenset(pool for (pool,) in rows)

    def reads_far(
        self, pool: str, wants: LeasePreference, slots: int, *, not_hot: int, lanes: int
    ) -> bool:
        """Whether a leasing for so many ``slots`` reads ``LOOK_AHEAD`` requests of each lane and
        not ``LOOK_NEAR``.

        ``not_hot``: queued requests of the pool for endpoints whose weights are not on the device.
        ``lanes``: those with queued requests. Where there are as many as slots, each is leased one
        or a few, and one that is due more gets the rest with the next leasing.
        """
        if slots > LOOK_NEAR and slots > lanes:
            return True
        if pool in self._due or self._clock.monotonic() - self._looked_at > MAX_AGE_S:
            return True
        return bool(wants.hot or wants.host) and not_hot > 0
