"""Number of queued requests and their throughput, by pool, tenant and endpoint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

Key = tuple[str, str, str]  # pool, tenant, endpoint


@dataclass(frozen=True, slots=True)
class Excluded:
    """Requests that are not counted, such as those that cannot start."""

    endpoints: Collection[str] = frozenset()
    tenants: Collection[str] = frozenset()


NOTHING = Excluded()


class Counters:
    """A snapshot of counts, plus the changes since it was begun.

    A request committed while the snapshot is taken may be counted twice until the next snapshot,
    but is never missed.
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

    def in_pool(self, pool: str, but: Excluded = NOTHING) -> int:
        """Requests of a pool, without those in ``but``."""
        of_endpoints = sum(self._pools_of_endpoint[endpoint][pool] for endpoint in but.endpoints)
        of_tenants = sum(self._of_lane[pool][tenant] for tenant in but.tenants)
        of_both = sum(
            self._of_key[pool, tenant, endpoint]
            for tenant in but.tenants
            for endpoint in but.endpoints
        )
        return max(0, self._of_pool[pool] - of_endpoints - of_tenants + of_both)

    def beyond(
        self, pool: str, limit_of: Callable[[str], int | None], but: Excluded = NOTHING
    ) -> int:
        """Requests of a pool beyond those that their tenants may run at once."""
        total = 0
        for tenant, n in self._of_lane[pool].items():
            limit = limit_of(tenant)
            if limit is not None and n > limit and tenant not in but.tenants:
                left_out = sum(self._of_key[pool, tenant, endpoint] for endpoint in but.endpoints)
                total += max(0, n - left_out - limit)
        return total

    def pools(self, but: Excluded = NOTHING) -> Counter[str]:
        """Requests by pool, without those in ``but``."""
        return +Counter({pool: self.in_pool(pool, but) for pool in self._of_pool})

    def endpoints(self, pool: str, but: Excluded = NOTHING) -> dict[str, int]:
        """Requests of a pool by endpoint, without those in ``but``."""
        counts = {
            endpoint: pools[pool] - sum(self._of_key[pool, name, endpoint] for name in but.tenants)
            for endpoint, pools in self._pools_of_endpoint.items()
            if endpoint not in but.endpoints
        }
        return {endpoint: n for endpoint, n in counts.items() if n > 0}

    def lanes(self) -> list[tuple[str, str]]:
        """Pools and tenants with queued requests."""
        return [
            (pool, tenant)
            for pool, tenants in self._of_lane.items()
            for tenant, n in tenants.items()
            if n > 0
        ]

    def lanes_in(self, pool: str) -> int:
        """Number of the pool's lanes with queued requests."""
        return sum(self._lanes_of_length[pool].values())

    def before_the_last(self, pool: str, tenant: str) -> tuple[int, int]:
        """Number of requests ahead of the tenant's last one, and how many of these are its own.

        Assumes that all weigh and take the same: all of its own are ahead, and as many of each
        other tenant.
        """
        queued = self._of_lane[pool][tenant]
        own = max(1, queued)
        # Few lengths are different, also of many lanes: at most the root of twice the requests.
        ahead = sum(min(n, own) * lanes for n, lanes in self._lanes_of_length[pool].items())
        return ahead - (1 if queued > 0 else 0), own - 1

    def change(self, pool: str, tenant: str, endpoint: str, by: int) -> None:
        self._since[pool, tenant, endpoint] += by
        self._add((pool, tenant, endpoint), by)

    def begin_snapshot(self) -> None:
        self._since.clear()

    def snapshot(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        self._clear()
        for pool, tenant, endpoint, n in rows:
            self._add((pool, tenant, endpoint), n)
        for key, n in self._since.items():
            self._add(key, n)

    def _clear(self) -> None:
        self._in_all = 0
        self._of_key: Counter[Key] = Counter()
        self._of_pool: Counter[str] = Counter()
        self._of_tenant: Counter[str] = Counter()
        self._of_endpoint: Counter[str] = Counter()
        self._pools_of_endpoint: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._of_lane: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._lanes_of_length: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def _add(self, key: Key, by: int) -> None:
        pool, tenant, endpoint = key
        self._in_all += by
        self._of_key[key] += by
        self._of_pool[pool] += by
        self._of_tenant[tenant] += by
        self._of_endpoint[endpoint] += by
        self._pools_of_endpoint[endpoint][pool] += by
        lanes, lengths = self._of_lane[pool], self._lanes_of_length[pool]
        lengths[lanes[tenant]] -= 1
        if lengths[lanes[tenant]] <= 0:
            del lengths[lanes[tenant]]
        lanes[tenant] += by
        if lanes[tenant] > 0:
            lengths[lanes[tenant]] += 1


# Throughput of the queue, and the retry delay that follows from it.

SMOOTHING = 0.2  # weight of the latest second
LEAST = 0.001  # requests per second; slower rates count as unknown
MIN_RETRY_S, MAX_RETRY_S, UNKNOWN_RETRY_S = 1.0, 60.0, 5.0


class Throughput:
    """Requests that leave the queue per second, smoothed: per pool, tenant and endpoint, and in
    total.
    """

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._gone: Counter[str] = Counter()

    def count_removal(self, pool: str, tenant: str, endpoint: str) -> None:
        self._gone.update(("", _pool(pool), _tenant(tenant), _endpoint(endpoint)))

    def tick(self, elapsed_s: float) -> None:
        """Update the rates. ``elapsed_s``: time since the last update."""
        rates: dict[str, float] = {}
        for name in self._rates.keys() | self._gone.keys():
            before = self._rates.get(name, 0.0)
            rate = before + SMOOTHING * (self._gone[name] / max(elapsed_s, 0.1) - before)
            if rate > LEAST:
                rates[name] = rate
        self._rates = rates
        self._gone.clear()

    def retry_s(self, waiting: int, *, tenant: str = "", endpoint: str = "") -> float:
        """Seconds after which a retry is worthwhile: a tenth of the time that the waiting requests
        take (of the tenant or endpoint, if named). By then some slots are free.
        """
        name = _tenant(tenant) if tenant else _endpoint(endpoint) if endpoint else ""
        return self._takes_s(0.1 * waiting, name)

    def until_gone_s(self, leaving: int, pool: str) -> float:
        """Seconds until ``leaving`` requests have left the pool's queue."""
        return self._takes_s(leaving, _pool(pool))

    def _takes_s(self, leaving: float, name: str) -> float:
        rate = self._rates.get(name)
        wait_s = UNKNOWN_RETRY_S if rate is None else leaving / rate
        return min(MAX_RETRY_S, max(MIN_RETRY_S, wait_s))


def _pool(pool: str) -> str:
    return f"pool {pool}"


def _tenant(tenant: str) -> str:
    return f"tenant {tenant}"


def _endpoint(endpoint: str) -> str:
    return f"endpoint {endpoint}"
