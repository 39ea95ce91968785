"""Leasing what is queued: tenants in turn by what they were given, within a tenant by rank.

Of each of the lanes that were given least, the first requests are looked at; each gets as its start
the virtual time of its lane plus what is expected of those before it, by weight; those with the
least starts are leased. That is what taking one after the other from the lane with the least
virtual time would give, in one statement.

The virtual time of a pool is the greatest start that was leased. No lane that was idle is behind
it, and none at all where limits hold some back, so neither banks credit. A lane that goes on may
be: it was given back what its requests did not take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.queue import wording
from serve_app.queue.database import Database, Lock
from serve_app.queue.lease_statement import LEASE, LEASE_LEAVING_OUT, LEASE_LIMITED, LIMITED
from serve_app.queue.limits import QueueLimits
from serve_app.queue.order import LOOK_AHEAD
from serve_app.queue.rows import Stored, stored
from serve_app.queue.submit import Offer


@dataclass(frozen=True, slots=True)
class Leased:
    """What a leasing found: which offer got which, in the queue's order.

    ``drained``: tenants whose lanes were put to sleep. ``more``: others may be leased now.
    """

    found: Sequence[tuple[int, Stored, Mapping[str, Any]]]  # and its whole input
    drained: frozenset[str]
    more: bool


async def lease(
    database: Database,
    pool: str,
    offers: Sequence[Offer],
    hot: frozenset[str],
    left_out: frozenset[str],
    limits: QueueLimits,
    charges: Mapping[str, float],
) -> Leased:
    """Lease at most one request to each offer. ``hot``: endpoints loaded where the offers are;
    ``left_out``: those of which no request is leased."""
    slots = [
        {"n": n, "replica": offer.replica_id, "actor": offer.actor_id}
        for n, offer in enumerate(offers, start=1)
    ]
    rows = await database.rows(
        _statement(limits, left_out),
        {
            "slots": wording.compact(slots),
            "pool": pool,
            "count": len(slots),
            # Charges that are not written yet may move as many lanes back.
            "lanes": len(slots) + len(charges),
            "hot": sorted(hot),
            "left_out": sorted(left_out),
            "charges": wording.compact(
                [{"tenant": tenant, "seconds": seconds} for tenant, seconds in charges.items()]
            ),
            "first_lease_s": limits.first_lease_s,
            **_running(limits),
        },
        lock=Lock((LIMITED,)) if limits.limits_running else None,
    )
    found = [_found(row) for row in rows]
    seen = rows[0][1] if rows else 0
    drained = frozenset(
        each.request.tenant for row, (_, each, _) in zip(rows, found, strict=True) if row[2]
    )
    more = bool(found) and (seen > len(found) or len(found) >= min(len(slots), LOOK_AHEAD))
    return Leased(found, drained, more)


def _statement(limits: QueueLimits, left_out: frozenset[str]) -> str:
    if limits.limits_running:
        return LEASE_LIMITED
    return LEASE_LEAVING_OUT if left_out else LEASE


def _found(row: tuple[Any, ...]) -> tuple[int, Stored, Mapping[str, Any]]:
    n, _, _, whole, *columns = row
    found = stored(tuple(columns))
    return n - 1, found, found.request.input if whole is None else whole


def _running(limits: QueueLimits) -> Mapping[str, object]:
    tenants = [
        {"tenant": tenant, "most": each.max_running}
        for tenant, each in limits.tenants.items()
        if each.max_running is not None
    ]
    endpoints = [
        {"endpoint": endpoint, "most": each.max_running}
        for endpoint, each in limits.endpoints.items()
        if each.max_running is not None
    ]
    return {
        "most_of_tenant": limits.max_running_per_tenant,
        "tenants": wording.compact(tenants),
        "endpoints": wording.compact(endpoints),
    }
