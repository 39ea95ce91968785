"""What lanes are to be charged beside their leases, until the next statement that writes lanes.

A lease in the insert charges what it is expected to take; an end charges what it took beyond that,
or gives back. Written with the next leasing in the pool, or within a second, so neither submit nor
finish waits for a row that all of a tenant's requests share. What a process that dies had not
written is lost: some seconds of fairness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from serve_app.queue import wording
from serve_app.queue.database import Database

SETTLE = """
WITH charged AS (
    SELECT * FROM json_to_recordset(%(charges)s::json) AS x(
        pool text, tenant text, seconds double precision)
),
locked AS (
    SELECT l.pool, l.tenant, c.seconds FROM charged c JOIN fair_lanes l
        ON l.pool = c.pool AND l.tenant = c.tenant
    ORDER BY 1, 2 FOR NO KEY UPDATE OF l
)
UPDATE fair_lanes l SET vtime = l.vtime + k.seconds / l.weight
FROM locked k WHERE l.pool = k.pool AND l.tenant = k.tenant
"""


class Charges:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._pools: dict[str, defaultdict[str, float]] = {}

    def add(self, pool: str, tenant: str, seconds: float) -> None:
        self._pools.setdefault(pool, defaultdict(float))[tenant] += seconds

    def take(self, pool: str) -> Mapping[str, float]:
        """All of a pool, by tenant, for a statement that writes them; ``restore`` if it fails."""
        return self._pools.pop(pool, {})

    def restore(self, pool: str, charges: Mapping[str, float]) -> None:
        for tenant, seconds in charges.items():
            self.add(pool, tenant, seconds)

    async def settle(self) -> None:
        """Write what no leasing has taken."""
        taken, self._pools = self._pools, {}
        if not taken:
            return
        rows = [
            {"pool": pool, "tenant": tenant, "seconds": seconds}
            for pool, charges in taken.items()
            for tenant, seconds in charges.items()
        ]
        try:
            await self._database.rows(SETTLE, {"charges": wording.compact(rows)})
        except BaseException:
            for pool, charges in taken.items():
                self.restore(pool, charges)
            raise
