"""How fast the queue is served, and so after how long it is worth trying again."""

from __future__ import annotations

from collections import Counter

SMOOTH = 0.2  # weight of the latest second
LEAST = 0.001  # per second; slower is not known
LEAST_RETRY_S, MOST_RETRY_S, UNKNOWN_RETRY_S = 1.0, 60.0, 5.0


class Pace:
    """Requests that leave the queue per second, smoothed: of a pool, a tenant, an endpoint, all."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._gone: Counter[str] = Counter()

    def left(self, pool: str, tenant: str, endpoint: str) -> None:
        self._gone.update(("", _pool(pool), _tenant(tenant), _endpoint(endpoint)))

    def tick(self, elapsed_s: float) -> None:
        """``elapsed_s`` since the last one."""
        rates: dict[str, float] = {}
        for name in self._rates.keys() | self._gone.keys():
            before = self._rates.get(name, 0.0)
            rate = before + SMOOTH * (self._gone[name] / max(elapsed_s, 0.1) - before)
            if rate > LEAST:
                rates[name] = rate
        self._rates = rates
        self._gone.clear()

    def retry_s(self, waiting: int, *, tenant: str = "", endpoint: str = "") -> float:
        """A tenth of the time that what waits takes (of the tenant's, or the endpoint's): by then
        there is room for some."""
        name = _tenant(tenant) if tenant else _endpoint(endpoint) if endpoint else ""
        return self._takes_s(0.1 * waiting, name)

    def until_gone_s(self, leaving: int, pool: str) -> float:
        """The time in which so many leave the queue of the pool."""
        return self._takes_s(leaving, _pool(pool))

    def _takes_s(self, leaving: float, name: str) -> float:
        rate = self._rates.get(name)
        wanted = UNKNOWN_RETRY_S if rate is None else leaving / rate
        return min(MOST_RETRY_S, max(LEAST_RETRY_S, wanted))


def _pool(pool: str) -> str:
    return f"pool {pool}"


def _tenant(tenant: str) -> str:
    return f"tenant {tenant}"


def _endpoint(endpoint: str) -> str:
    return f"endpoint {endpoint}"
