"""Counts of queued requests, and the place of a new one that follows from them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.queue.state.counters import Counters

TENANTS = ("ann", "bob", "eve", "joe")
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("studio", "video")),
        st.sampled_from(TENANTS),
        st.sampled_from(("flux", "wan")),
        st.sampled_from((1, 1, -1)),
    ),
    max_size=40,
)


@given(st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 5))), CHANGES)
def test_the_place_of_a_new_request_is_behind_as_many_of_each_tenant(
    snapshot: list[tuple[str, int]], changes: list[tuple[str, str, str, int]]
) -> None:
    counters, lanes = Counters(), dict[tuple[str, str], int]()
    counters.begin_snapshot()
    counters.snapshot(("studio", tenant, "flux", n) for tenant, n in snapshot)
    for tenant, n in snapshot:
        lanes["studio", tenant] = lanes.get(("studio", tenant), 0) + n
    for pool, tenant, endpoint, by in changes:
        counters.change(pool, tenant, endpoint, by)
        lanes[pool, tenant] = lanes.get((pool, tenant), 0) + by
    for pool in ("studio", "video"):
        for tenant in TENANTS:
            own = max(1, lanes.get((pool, tenant), 0))
            others = sum(
                min(n, own)
                for (where, other), n in lanes.items()
                if where == pool and other != tenant and n > 0
            )
            assert counters.before_the_last(pool, tenant) == (own - 1 + others, own - 1)
