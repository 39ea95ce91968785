"""How many requests are queued, by pool, tenant and endpoint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

Key = tuple[str, str, str]  # pool, tenant, endpoint


class Tally:
    """A snapshot, and what has changed since it was begun.

    What is committed while the snapshot is taken may be counted twice until the next, never not at
    all.
    """

    def __init__(self) -> None:
        self._since: Counter[Key] = Counter()
        self._clear()

    @property
    def in_all(self) -> int:
        return max(0, self._in_all)

    def of_tenant(self, tenant: str) -> int:
        return max(0, self._of_tenant[tenant])

    def of_endpoint(self, endpoint: str) -> int:
        return max(0, self._of_endpoint[endpoint])

    def in_pool(self, pool: str, but: Iterable[str] = ()) -> int:
        """``but``: endpoints that are left out."""
        left_out = sum(self._pools_of_endpoint[endpoint][pool] for endpoint in but)
        return max(0, self._of_pool[pool] - left_out)

    def pools(self, but: Iterable[str] = ()) -> Counter[str]:
        """``but``: endpoints that are left out."""
        pools = Counter(self._of_pool)
        for endpoint in but:
            pools.subtract(self._pools_of_endpoint[endpoint])
        return +pools

    def lanes(self) -> list[tuple[str, str]]:
        """Pools and tenants with something queued."""
        return [
            (pool, tenant)
            for pool, tenants in self._of_lane.items()
            for tenant, n in tenants.items()
            if n > 0
        ]

    def before_the_last(self, pool: str, tenant: str) -> tuple[int, int]:
        """How many go before the last of the tenant's, if all weigh and take the same: all its own,
        and of each other tenant as many. And how many of its own."""
        lanes = self._of_lane[pool]
        own = max(1, lanes[tenant])
        others = sum(min(n, own) for other, n in lanes.items() if other != tenant and n > 0)
        return own - 1 + others, own - 1

    def change(self, pool: str, tenant: str, endpoint: str, by: int) -> None:
        self._since[pool, tenant, endpoint] += by
        self._add((pool, tenant, endpoint), by)

    def snapshot_begins(self) -> None:
        self._since.clear()

    def snapshot(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        self._clear()
        for pool, tenant, endpoint, n in rows:
            self._add((pool, tenant, endpoint), n)
        for key, n in self._since.items():
            self._add(key, n)

    def _clear(self) -> None:
        self._in_all = 0
        self._of_pool: Counter[str] = Counter()
        self._of_tenant: Counter[str] = Counter()
        self._of_endpoint: Counter[str] = Counter()
        self._pools_of_endpoint: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._of_lane: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def _add(self, key: Key, by: int) -> None:
        pool, tenant, endpoint = key
        self._in_all += by
        self._of_pool[pool] += by
        self._of_tenant[tenant] += by
        self._of_endpoint[endpoint] += by
        self._pools_of_endpoint[endpoint][pool] += by
        self._of_lane[pool][tenant] += by
