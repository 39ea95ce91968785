"""Leasing beside a snapshot that is open for long: of a backup, a replication slot or a forgotten
transaction.

No vacuum removes what such a snapshot can still see. Each leasing leaves a dead entry at the front
of the indexes of queued requests, and one in each index of lanes, and every later leasing reads
them all. Measured with 4 lanes: 0.8 ms at first, 4.2 ms after 20,000 leasings. So while a snapshot
is open for long:

- The scans of a leasing start where a look, once a second, found the first requests and lanes.
- A lane that is not new among the waiting ones is written once a second, not with each leasing.

The start of a scan is a hint. A retry or a request of higher priority that another process puts in
front of it, and a lane that another process refunds, are found by the next look. What this process
puts there is found at once. A hint that is ``MAX_AGE_S`` overdue is not used.

A look reads all dead entries: 38 ms after 60,000 leasings. So it takes at most ``MAX_SHARE`` of the
time of a database connection, and comes less often when it costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from serve_app.domain.ports import Clock
from serve_app.domain.request import Request
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import head_start_s, pool_time

MIN_TRANSACTIONS = 2000
"""A snapshot is open for long if it keeps the versions of this many transactions. Fewer cost less
than the looks.
"""
MAX_AGE_S = 3.0
MAX_SHARE = 0.1
MAX_BETWEEN_LOOKS_S = 15.0
"""Leasings read what died since the last look."""
WRITE_EVERY_S = 1.0
RARELY_S = 10.0
MAX_UNWRITTEN = 16
"""Most lanes with charges that are not written. A leasing looks at as many more lanes."""
MAX_LANES = 100
"""Lanes of a pool whose first request a look finds. Of more lanes, each has few dead entries."""

ROUNDING_S = 0.001

# A request that is being inserted is not seen yet and has a rank before the look: hence the half
# second.
LOOK = f"""
-- name: look_for_fronts
WITH pool_time AS MATERIALIZED (SELECT coalesce({pool_time("%(pool)s")}, 0) AS v)
SELECT least(v, l.vtime), l.tenant, extract(epoch FROM least(
        (SELECT r.ranked_at FROM requests r
         WHERE r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued'
         ORDER BY r.ranked_at, r.place LIMIT 1),
        now() - interval '0.5 s'))::double precision
FROM pool_time LEFT JOIN (
    SELECT tenant, vtime FROM fair_lanes WHERE pool = %(pool)s AND active
    ORDER BY vtime, woken_at LIMIT {MAX_LANES}) l ON true
"""


@dataclass(frozen=True, slots=True)
class Front:
    """Start of a leasing's scans in a pool.

    ``vtime``: of lanes, at most the virtual time at which a lane would wake. ``ranks``: of requests
    by tenant, in seconds since 1970; a tenant's that is not there are read from the first on.
    ``served``: virtual time of the pool, as this process knows it, since it is not written with
    each leasing. ``writes_lanes``: False if the process keeps the charges of lanes that waited
    before.
    """

    vtime: float
    ranks: Mapping[str, float]
    served: float = 0.0
    writes_lanes: bool = True


@dataclass(slots=True)
class _Look:
    """Result of a look at a pool. ``at``: when it began, by the monotonic clock."""

    at: float
    took_s: float
    vtime: float
    ranks: dict[str, float]

    @property
    def next_at(self) -> float:
        """Time before which no other look at the pool begins."""
        return self.at + min(MAX_BETWEEN_LOOKS_S, self.took_s / MAX_SHARE)


class OpenSnapshots:
    """Where the leasings of this process start to scan while a snapshot is open for long."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._looks: dict[str, _Look] = {}
        self._served: dict[str, float] = {}  # by pool, see `Front`
        self._leased_at: dict[str, float] = {}  # by pool
        self._moved_at: dict[str, dict[str, float]] = {}  # by pool and tenant: of fronts
        self._wrote_at: dict[str, float] = {}  # by pool
        self._did_at: dict[str, float] = {}  # by work, see `is_due`
        self.open_for_long = False

    def note_transactions(self, transactions: int) -> None:
        """Note how many transactions' versions the oldest snapshot keeps."""
        self.open_for_long = transactions >= MIN_TRANSACTIONS

    async def look(self) -> None:
        """Find the front of each pool from which this process leases."""
        if not self.open_for_long:
            self._looks.clear()
            self._served.clear()
            return
        for pool, leased_at in [*self._leased_at.items()]:
            began = self._clock.monotonic()
            if began - leased_at > RARELY_S:
                del self._leased_at[pool]
                self._looks.pop(pool, None)
                continue
            if (last := self._looks.get(pool)) and began < last.next_at:
                continue
            rows = await self._database.rows(LOOK, {"pool": pool})
            moved = self._moved_at.pop(pool, {})
            ranks = {
                tenant: rank - ROUNDING_S
                for _, tenant, rank in rows
                # What was put in front during the look may not have been seen.
                if tenant is not None and moved.get(tenant, 0.0) < began
            }
            took_s = self._clock.monotonic() - began
            self._looks[pool] = _Look(began, took_s, min(vtime for vtime, _, _ in rows), ranks)

    def front(self, pool: str, unwritten: int) -> Front | None:
        """Where a leasing in the pool starts to scan; None: at the first entries, as always.

        ``unwritten``: number of lanes whose charges this process keeps.
        """
        return self._front(pool, unwritten) if self.open_for_long else None

    def _front(self, pool: str, unwritten: int) -> Front | None:
        now = self._clock.monotonic()
        self._leased_at[pool] = now
        look = self._looks.get(pool)
        if look is None or now - look.next_at > MAX_AGE_S:
            return None
        writes = unwritten > MAX_UNWRITTEN or now - self._wrote_at.get(pool, 0.0) >= WRITE_EVERY_S
        if writes:
            self._wrote_at[pool] = now
        served = self._served.get(pool, 0.0)
        return Front(look.vtime, look.ranks, served, writes)

    def note_leasing(self, pool: str, served: float | None, refunds: Iterable[float]) -> None:
        """Note the pool's virtual time after a leasing, and move the front back to the lanes that
        it refunded.

        ``refunds``: in virtual seconds, negative.
        """
        self._served[pool] = max(self._served.get(pool, 0.0), served or 0.0)
        if look := self._looks.get(pool):
            look.vtime += min([0.0, *refunds])

    def note_queued(self, requests: Iterable[Request]) -> None:
        """Move fronts back to new requests that are before them."""
        for request in requests:
            look = self._looks.get(request.pool)
            rank = request.created_at.timestamp() + head_start_s(request.priority) - ROUNDING_S
            if look is not None and rank < look.ranks.get(request.tenant, inf):
                self._note_move(request.pool, request.tenant)
                if request.tenant in look.ranks:
                    look.ranks[request.tenant] = rank

    def queued_again(self, pool: str, tenant: str) -> None:
        """Forget the front of a tenant: a request returned to a place before it."""
        if look := self._looks.get(pool):
            look.ranks.pop(tenant, None)
            self._note_move(pool, tenant)

    def is_due(self, work: str) -> bool:
        """True if it is time for periodic ``work`` that writes lanes: always, but only every
        ``RARELY_S`` while a snapshot is open for long.
        """
        now = self._clock.monotonic()
        if self.open_for_long and work in self._did_at and now - self._did_at[work] < RARELY_S:
            return False
        self._did_at[work] = now
        return True

    def _note_move(self, pool: str, tenant: str) -> None:
        """Note that a request was put in front: a look under way may not see it."""
        self._moved_at.setdefault(pool, {})[tenant] = self._clock.monotonic()
