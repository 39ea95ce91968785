"""Leasing of queued requests: fair between tenants by time received, by rank within a tenant.

The statement looks at the first requests of the lanes that have received least. The start of a
request is the virtual time of its lane, plus the expected time of the requests before it divided by
the lane's weight. The requests with the lowest starts are leased. The result equals taking one
request after the other from the lane with the lowest virtual time, in one statement.

The virtual time of a pool is the highest start that was leased. No lane that was idle is behind it,
and no lane at all where limits hold some back, so neither saves up credit. An active lane may be
behind it: it was refunded time that its requests did not use.

Several ingress processes look at the same lanes. A request that one of them is leasing is skipped
by the others. So are all requests of a tenant or endpoint with a limit on running requests while
one of them leases any, or when it is at its limit. So a statement may see requests and lease none
of them: ``Contention`` decides when to look again, and at how many more lanes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.domain.lease import LeaseKey, LeasePreference, LeftOut
from serve_app.domain.request import Request
from serve_app.jobs.postgres import RESTART
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import LOOK_AHEAD, LOOK_NEAR
from serve_app.queue.fairness.open_snapshots import Front
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import StoredRequest, request_from_row
from serve_app.queue.transactions.insert import DirectLease
from serve_app.queue.transactions.lease_sql import (
    LEASE,
    LEASE_LEAVING_OUT,
    LEASE_LIMITED,
    Forms,
)


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """Result of a leasing statement: leased requests by offer, in the queue's order.

    ``drained``: tenants whose lanes were put to sleep. ``more``: further requests may be leased
    now. ``missed``: requests that it saw and had slots for, and could not lease.
    ``unwritten``: charges by tenant that the process must keep, in seconds. ``served``: the highest
    start that was leased, None if nothing was. ``full``: tenants and endpoints that it found at
    their limit of running requests, or that reached it.
    """

    grants: Sequence[tuple[int, StoredRequest, Mapping[str, Any]]]  # offer, request, whole input
    drained: frozenset[str]
    more: bool
    missed: int
    unwritten: Mapping[str, float] = field(default_factory=dict)
    served: float | None = None
    full: LeftOut = field(default_factory=LeftOut)


IS_HELD = """
-- name: lease_is_held
SELECT 1 FROM requests
WHERE id = %(id)s::uuid AND state = 'running' AND attempt = %(attempt)s AND lease_nonce = %(nonce)s
"""


async def is_held(database: Database, lease_key: LeaseKey) -> bool:
    """Return whether a lease is the current one of a running request."""
    params = {"id": lease_key.request_id, "attempt": lease_key.attempt, "nonce": lease_key.nonce}
    return bool(await database.rows(IS_HELD, params))


EXPECTED_S = 7 * 3600.0
"""Seconds after the issue of a file's ticket at which the file is deleted unless a success has
named it. Longer than the ticket is valid."""

EXPECT = f"""
-- name: expect_files
INSERT INTO jobs (kind, key, due_at)
SELECT 'file', key, now() + make_interval(secs => %(after_s)s)
FROM json_array_elements_text(%(keys)s::json) AS key
{RESTART}"""


class ExecutorLeases:
    """Leases of executors, whose files are known only when they are made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_held(self, lease_key: LeaseKey) -> bool:
        return await is_held(self._database, lease_key)

    async def expect_files(self, keys: Sequence[str]) -> None:
        """Mark files of an attempt for deletion before they are uploaded. They are kept while the
        attempt holds the lease, and when it succeeds with them."""
        params = {"keys": messages.compact(keys), "after_s": EXPECTED_S}
        await self._database.rows(EXPECT, params)


# Contention with other ingress processes. Pure.

FIRST_SPARE_LANES = 16
MAX_SPARE_LANES = 64
MAX_MISSES = 20
PAUSE_S, MAX_PAUSE_S = 0.002, 0.032


@dataclass(frozen=True, slots=True)
class Contention:
    """Contention for the requests of a pool, as the leasing statements of this process saw it.

    ``spare_lanes``: lanes to look at beside one for each slot. A lane costs pages, so none is spare
    until a statement missed requests. ``misses``: statements in a row that saw requests and leased
    none.
    """

    spare_lanes: int = 0
    misses: int = 0

    def after(self, leased: int, missed: int) -> Contention:
        """Contention after one more statement."""
        if not missed:
            return Contention(max(0, self.spare_lanes - 1), 0)
        wider = min(MAX_SPARE_LANES, max(FIRST_SPARE_LANES, 2 * self.spare_lanes))
        return Contention(wider, 0 if leased else self.misses + 1)

    @property
    def looks_again(self) -> bool:
        """True if the last statement leased none of the requests that it saw. False after many of
        them: these requests are locked for long, and the next look is the periodic one.
        """
        return 0 < self.misses < MAX_MISSES

    def pause_s(self, share: float) -> float:
        """Pause before the next look: ``share``, from 0 to 1, of a time that grows with the misses
        in a row.
        """
        return share * min(MAX_PAUSE_S, PAUSE_S * 2**self.misses) if self.misses else 0.0


async def lease_queued(
    database: Database,
    pool: str,
    offers: Sequence[DirectLease],
    wants: LeasePreference,
    limits: QueueLimits,
    charges: Mapping[str, float],
    *,
    spare_lanes: int = 0,
    front: Front | None = None,
    far: bool = True,
) -> LeaseResult:
    """Lease at most one request to each offer.

    ``wants``: of the offering replicas; it also leaves out what is known to be at a limit, see
    ``RunningLimits``. ``spare_lanes``: see ``Contention``. ``front``: None if no snapshot is open
    for long; see ``OpenSnapshots``. ``far``: whether it reads far into lanes;
    see ``Reordering``.
    """
    slots = [
        {"n": n, "replica": offer.replica_id, "actor": offer.actor_id}
        for n, offer in enumerate(offers, start=1)
    ]
    forms = _forms(limits, wants.left_out)
    far = far or front is not None
    rows = await database.rows(
        forms.beside_snapshot if front else forms.far if far else forms.near,
        {
            "slots": messages.compact(slots),
            "pool": pool,
            "count": len(slots),
            # Each charge that is not written yet may move one lane back.
            "lanes": len(slots) + len(charges) + spare_lanes,
            "hot": sorted(wants.hot),
            "host": sorted(wants.host),
            "left_out": sorted(wants.left_out.endpoints),
            "failed_left_out": wants.left_out.failed,
            "tenants_left_out": messages.compact([*wants.left_out.tenants]),
            "charges": messages.compact(
                [{"tenant": tenant, "seconds": seconds} for tenant, seconds in charges.items()]
            ),
            "first_lease_s": limits.first_lease_s,
            **limits.running_parameters,
            **(_beside_snapshot(front, len(slots) + spare_lanes) if front else {}),
        },
    )
    return _result(rows, min(len(slots), LOOK_AHEAD if far else LOOK_NEAR), len(slots))


def _beside_snapshot(front: Front, next_lanes: int) -> Mapping[str, object]:
    return {
        "served": front.served,
        "vtime_from": front.vtime,
        "fronts": messages.compact(front.ranks),
        "writes_lanes": front.writes_lanes,
        "next_lanes": next_lanes,
    }


def _forms(limits: QueueLimits, left_out: LeftOut) -> Forms:
    if limits.limits_running:
        return LEASE_LIMITED
    return LEASE_LEAVING_OUT if left_out else LEASE


def _result(rows: Sequence[tuple[Any, ...]], of_lane: int, slots: int) -> LeaseResult:
    """``of_lane``: most requests that it leased of one lane."""
    _, seen, takeable, _, _, unwritten, served, rooms, *_ = rows[0]
    rows = [(n, *columns) for n, *columns in rows if n is not None]
    leased = [_parse_row(row) for row in rows]
    drained = frozenset(
        each.request.tenant
        for (_, _, _, is_drained, *_), (_, each, _) in zip(rows, leased, strict=True)
        if is_drained
    )
    more = bool(leased) and (seen > len(leased) or len(leased) >= of_lane)
    missed = max(0, min(slots, takeable) - len(leased))
    full = _full(rooms, [record.request for _, record, _ in leased]) if rooms else LeftOut()
    return LeaseResult(leased, drained, more, missed, unwritten or {}, served, full)


def _full(rooms: Mapping[str, Mapping[str, int] | None], leased: Sequence[Request]) -> LeftOut:
    """Names whose room, by the statement's counts, is used up by what it leased."""
    tenants = Counter(request.tenant for request in leased)
    endpoints = Counter(request.endpoint for request in leased)
    return LeftOut(
        frozenset(name for name, n in (rooms["endpoints"] or {}).items() if n <= endpoints[name]),
        frozenset(name for name, n in (rooms["tenants"] or {}).items() if n <= tenants[name]),
    )


def _parse_row(row: tuple[Any, ...]) -> tuple[int, StoredRequest, Mapping[str, Any]]:
    n, _, _, _, whole, _, _, _, _, *columns = row
    record = request_from_row(columns)
    return n - 1, record, record.request.input if whole is None else whole
