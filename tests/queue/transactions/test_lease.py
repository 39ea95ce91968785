"""The leasing statement follows ``order.py`` for any content of the queue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.domain.lease import LeasePreference
from serve_app.postgres.database import Database
from serve_app.queue.fairness.open_snapshots import ROUNDING_S, Front
from serve_app.queue.transactions.insert import DirectLease, EncodedInput, NewRow, insert_requests
from serve_app.queue.transactions.lease import (
    MAX_MISSES,
    MAX_SPARE_LANES,
    Contention,
    lease_queued,
)
from tests.fakes.lane_order import LaneClock, QueuedRequest, charge, in_order, pool_time
from tests.queue.database import LONG_LEASES, Background
from tests.queue.requests import POOL, new, new_id

FILL = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input,
                      ranked_at, expected_s, start_by)
SELECT id, tenant, endpoint, '0', %(pool)s, 1, 'queued', '{}', ranked_at, expected_s, start_by
FROM json_to_recordset(%(rows)s::json) AS x(
    n integer, id uuid, tenant text, endpoint text, ranked_at timestamptz,
    expected_s double precision, start_by timestamptz)
ORDER BY n
"""
LANES = """
INSERT INTO fair_lanes (pool, tenant, weight, vtime, served, woken_at)
SELECT %(pool)s, tenant, weight, vtime, served, now() + make_interval(secs => coalesce(place, 0))
FROM json_to_recordset(%(rows)s::json) AS x(
    tenant text, weight double precision, vtime double precision, served double precision,
    place integer)
"""
TENANTS, ENDPOINTS = ("ann", "bob", "eve"), ("flux", "sdxl", "wan")

REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(TENANTS),
        st.sampled_from(ENDPOINTS),
        st.integers(-90, 0),  # its rank, in seconds before now
        st.sampled_from([0.5, 1.0, 4.0]),
        st.sampled_from([None, None, None, 3.0, 60.0]),  # seconds until it expires
    ),
    max_size=30,
)
LANE = st.builds(
    LaneClock, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 3.0, 8.0]), st.just(0.0)
)


async def run_lease(
    conninfo: str,
    lanes: dict[str, LaneClock],
    queued: list[QueuedRequest],
    count: int,
    wants: LeasePreference,
    front: Front | None,
    *,
    far: bool,
) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Lease ids in order, and ``vtime`` and ``served`` of each lane."""
    database = Database(conninfo, connections=1)
    await database.start()
    try:
        await database.rows("TRUNCATE requests, attempts, events, fair_lanes")
        # A lane is woken by its first request.
        woken_by = {request.tenant: request.place for request in reversed(queued)}
        named = [
            {
                "tenant": tenant,
                "weight": lane.weight,
                "vtime": lane.vtime,
                "served": lane.served,
                "place": woken_by.get(tenant, 0),
            }
            for tenant, lane in lanes.items()
        ]
        await database.rows(LANES, {"pool": POOL, "rows": json.dumps(named)})
        rows: list[dict[str, Any]] = [
            {
                "n": n,
                "id": request.id,
                "tenant": request.tenant,
                "endpoint": request.endpoint,
                "ranked_at": request.ranked_at.isoformat(),
                "expected_s": request.expected_s,
                "start_by": request.start_by.isoformat() if request.start_by else None,
            }
            for n, request in enumerate(queued)
        ]
        await database.rows(FILL, {"pool": POOL, "rows": json.dumps(rows)})
        offers = [DirectLease("r1", "a1")] * count
        charges = {"ann": 2.0}
        got = await lease_queued(
            *(database, POOL, offers, wants, LONG_LEASES, charges), front=front, far=far
        )
        assert not got.unwritten
        leased_ids = [granted.request.id for _, granted, _ in got.grants]
        after = await database.rows("SELECT tenant, vtime, served FROM fair_lanes")
        return leased_ids, {tenant: (vtime, served) for tenant, vtime, served in after}
    finally:
        await database.aclose()


def front_of(lanes: Mapping[str, LaneClock], queued: Sequence[QueuedRequest]) -> Front:
    """What a look before the leasing finds."""
    vtime = min(pool_time(lanes.values()), *(lane.vtime for lane in lanes.values()))
    ranks: dict[str, float] = {}
    for request in queued:
        rank = request.ranked_at.timestamp() - ROUNDING_S
        ranks[request.tenant] = min(rank, ranks.get(request.tenant, rank))
    return Front(vtime, ranks)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests=REQUESTS,
    lanes=st.fixed_dictionaries(dict.fromkeys(TENANTS, LANE)),
    served=st.sampled_from([0.0, 5.0]),
    count=st.integers(1, 8),
    hot=st.frozensets(st.sampled_from(ENDPOINTS), max_size=2),
    host=st.frozensets(st.sampled_from(ENDPOINTS), max_size=2),
    beside_snapshot=st.booleans(),
    far=st.booleans(),
)
def test_it_leases_in_the_order_and_charges_as_it_should(
    conninfo: str,
    requests: list[tuple[str, str, int, float, float | None]],
    lanes: dict[str, LaneClock],
    served: float,
    count: int,
    hot: frozenset[str],
    host: frozenset[str],
    beside_snapshot: bool,
    far: bool,
) -> None:
    now = datetime.now(UTC)
    if not far:  # nothing to reorder by
        hot = host = frozenset()
        requests = [(*fields, None) for *fields, _ in requests]
    lanes = {tenant: replace(lane) for tenant, lane in lanes.items()}
    lanes["bob"].served = served
    queued = [
        QueuedRequest(
            new_id(),
            tenant,
            endpoint,
            now + timedelta(seconds=rank_s),
            place,
            expected_s,
            None if due_s is None else now + timedelta(seconds=due_s),
        )
        for place, (tenant, endpoint, rank_s, expected_s, due_s) in enumerate(requests)
    ]
    front = front_of(lanes, queued) if beside_snapshot else None
    with Background() as background:
        wants = LeasePreference(hot, host)
        leased_ids, after = background.run(
            run_lease(conninfo, lanes, queued, count, wants, front, far=far)
        )
    lanes["ann"].vtime += 2.0 / lanes["ann"].weight  # charged before
    expected = min(count, len(queued))
    for id_ in leased_ids:
        order = in_order(lanes, queued, hot, now, host)
        # Lanes with the same turn are ordered by the time they woke, and by place.
        (start,) = (candidate for candidate in order if candidate.queued.id == id_)
        assert start.at == order[0].at
        charge(lanes[start.queued.tenant], start, pool_time(lanes.values()))
        queued.remove(start.queued)
    assert len(leased_ids) == expected
    for tenant, lane in lanes.items():
        assert after[tenant] == (pytest.approx(lane.vtime), pytest.approx(lane.served)), tenant


async def test_of_lanes_whose_turn_is_the_same_the_one_that_waits_longest_goes_first(
    database: Database,
) -> None:
    lanes = [("old", 9.0, 5.0), ("late", 0.0, 0.0), ("early", 1.0, 0.0)]
    rows = [
        {"tenant": tenant, "weight": 1.0, "vtime": vtime, "served": served}
        for tenant, vtime, served in lanes
    ]
    await database.rows(LANES, {"pool": POOL, "rows": json.dumps(rows)})
    await database.rows("UPDATE fair_lanes SET active = false")
    for tenant in ("early", "late"):
        request = new(tenant=tenant)
        await insert_requests(database, [NewRow(request, EncodedInput(request.input))], 5.0)
    for tenant in ("early", "late"):
        got = await lease_queued(
            database, POOL, [DirectLease("r1", "a1")], LeasePreference(), LONG_LEASES, {}
        )
        assert [granted.request.tenant for _, granted, _ in got.grants] == [tenant]


STATEMENTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=200)


@given(STATEMENTS, st.floats(0.0, 1.0))
def test_contention_is_bounded_and_ends_with_the_first_statement_that_leases(
    statements: list[tuple[int, int]], share: float
) -> None:
    contention = Contention()
    for leased, missed in statements:
        before, contention = contention, contention.after(leased, missed)
        assert 0 <= contention.spare_lanes <= MAX_SPARE_LANES
        assert (
            contention.spare_lanes > before.spare_lanes
            or not missed
            or (contention.spare_lanes == MAX_SPARE_LANES)
        )
        assert contention.looks_again == (0 < contention.misses < MAX_MISSES)
        if leased or not missed:
            assert not contention.looks_again
            assert contention.pause_s(share) == 0
        elif contention.looks_again:
            assert contention.pause_s(share) < 0.5


def test_without_contention_no_lane_is_spare() -> None:
    contention = Contention().after(leased=0, missed=1)
    for _ in range(contention.spare_lanes):
        contention = contention.after(leased=1, missed=0)
    assert contention == Contention()
