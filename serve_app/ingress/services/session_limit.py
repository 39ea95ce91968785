"""Limit of open realtime sessions per tenant.

A session holds a slot as long as it is open, also when it is idle. Sessions are counted by the
ingress process that serves them, so with several ingress replicas a tenant can have the limit at
each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from serve_app.domain.errors import Overloaded
from serve_app.settings import Config

RETRY_S = 5.0


def max_sessions(config: Config, pool: str) -> int | None:
    """Largest number of sessions of a tenant in a pool: the setting, or half of the slots that the
    pool can have, at least one. None for a pool whose size is not known."""
    if config.limits.max_sessions_per_tenant is not None:
        return config.limits.max_sessions_per_tenant
    known = (config.models.pools or {}).get(pool)
    return None if known is None else max(1, known.max_slots * known.max_replicas // 2)


class SessionCounts:
    """Open sessions by pool and tenant, of this process. Use on one event loop."""

    def __init__(self) -> None:
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def count(self, pool: str, tenant: str, most: int | None) -> Generator[None]:
        """Count a session while the block runs. ``Overloaded``: ``most`` are open already."""
        key = pool, tenant
        if most is not None and self._open[key] >= most:
            raise Overloaded(
                f"You have {self._open[key]} open realtime sessions, the most that one tenant can "
                "have here at once. Close one of them first.",
                RETRY_S,
                "sessions_limit",
            )
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
