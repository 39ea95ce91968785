"""Tenants and endpoints at their limit of running requests, as one process knows them.

A leasing leaves them out, so that it neither reads their lanes' requests nor counts what runs. With
1,000 such lanes of 80 running requests each, that took two thirds of its time. Whether a request
may run is decided by ``room_under_limit`` in the database, which counts exactly. A name is known
here

- from a leasing that found no room for it, or took the last of it,
- from a look, once a second, at all tenants with queued requests and all endpoints with a limit,

until one of its requests ends, here or, by a notification, in another process. If that notification
is lost, the next look finds that it is below its limit.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.domain.lease import LeftOut
from serve_app.postgres.database import Database
from serve_app.queue.store.config import ENDPOINT, TENANT, Limited, QueueLimits

# A request to a workflow takes no slot: see the index `requests_running_of_tenant`.
_COUNTED = "AND n.pool <> 'workflows'"
# The limit of a disabled tenant is 0, and an offset below 0 is an error.
_AT_LIMIT = """
    x.most < 1 OR (SELECT true FROM requests n
     WHERE n.state = 'running' AND n.{kind} = x.name {counted} AND n.started_at >= coalesce(
        (SELECT c.first FROM running_counts c
         WHERE c.kind = '{kind}' AND c.name = x.name AND c.since <= now()), '-infinity')
     ORDER BY n.started_at OFFSET greatest(x.most - 1, 0) LIMIT 1) IS NOT NULL"""
LOOK = f"""
-- name: look_for_limits
WITH limits AS MATERIALIZED (SELECT %(tenants)s::jsonb AS tenants),
waiting AS MATERIALIZED (
    SELECT DISTINCT tenant AS name FROM fair_lanes WHERE active
)
SELECT '{TENANT}', name FROM (
    SELECT name, coalesce(((SELECT tenants FROM limits) ->> name)::integer,
                          %(most_of_tenant)s::integer) AS most
    FROM waiting OFFSET 0) x
WHERE CASE WHEN most IS NULL THEN false ELSE {_AT_LIMIT.format(kind=TENANT, counted=_COUNTED)} END
UNION ALL
SELECT '{ENDPOINT}', name
FROM json_to_recordset(%(endpoints)s::json) AS e(endpoint text, most integer)
CROSS JOIN LATERAL (SELECT e.endpoint AS name, e.most) x
WHERE {_AT_LIMIT.format(kind=ENDPOINT, counted="")}
"""


class RunningLimits:
    """What leasings of this process leave out because it is at its limit."""

    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._limits = limits
        self._full: dict[Limited, int] = {}  # and the number of the look before it was found
        self._left_out: LeftOut | None = LeftOut()  # of `_full`; None: to be computed
        self._freed: dict[Limited, int] = {}  # and the number of the time
        self._times_freed = 0
        self._looks = 0
        self._leased = False  # since the last look

    def left_out(self) -> tuple[LeftOut, int]:
        """What is at its limit, and a number for ``note_full``."""
        self._leased = True
        if self._left_out is None:
            self._left_out = LeftOut(self._names(ENDPOINT), self._names(TENANT))
        return self._left_out, self._times_freed

    @property
    def known_full(self) -> LeftOut:
        """What is at its limit, for others than leasings."""
        return LeftOut(self._names(ENDPOINT), self._names(TENANT))

    def note_full(self, full: LeftOut, began: int) -> None:
        """Note what a leasing found at its limit. ``began``: the number that it got."""
        self._add([(TENANT, tenant) for tenant in full.tenants], began)
        self._add([(ENDPOINT, endpoint) for endpoint in full.endpoints], began)

    def note_freed(self, names: Iterable[Limited]) -> None:
        """Note that requests of these names ended."""
        self._times_freed += 1
        for name in names:
            self._freed[name] = self._times_freed
            if self._full.pop(name, None) is not None:
                self._left_out = None

    def forget(self) -> None:
        """Forget all, since notifications may have been lost."""
        self._full.clear()
        self._left_out = None

    async def look(self) -> None:
        """Find all that is at its limit, if this process leases."""
        if not self._limits.limits_running:
            return
        leases, self._leased = self._leased, False
        if not leases:
            self.forget()
            return
        began = self._times_freed
        self._looks += 1
        try:
            rows = await self._database.rows(LOOK, self._limits.running_parameters)
        except BaseException:
            self.forget()
            raise
        self._full = {limited: look for limited, look in self._full.items() if look == self._looks}
        self._left_out = None
        self._add(((kind, name) for kind, name in rows), began)
        self._freed = {limited: time for limited, time in self._freed.items() if time > began}

    def _names(self, kind: str) -> frozenset[str]:
        return frozenset(name for name_kind, name in self._full if name_kind == kind)

    def _add(self, names: Iterable[Limited], began: int) -> None:
        """Add names found by a statement that does not see what was freed since it began."""
        for name in names:
            if self._freed.get(name, 0) <= began:
                self._full[name] = self._looks
                self._left_out = None
