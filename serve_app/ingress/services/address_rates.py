"""Rate of calls that need no key and check a secret, or ask the provider of the sign-in."""

from __future__ import annotations

import math

from serve_app.domain.errors import RateLimited
from serve_app.domain.ports import Clock
from serve_app.tenants.recent_keys import RecentKeys

PER_MINUTE = 120
"""Calls of one address a minute: a program that waits for its sign-in makes twelve, and the people
of an office may share an address."""
BURST = 60
"""Calls of one address that may come at once."""
ALL_TOGETHER = 10
"""Times as many from all addresses together."""
FULL_S = BURST * 60 / PER_MINUTE
"""Seconds after which a bucket is full, whatever was taken from it, so that it need not be kept."""
MAX_ADDRESSES = 10_000

EVERYBODY = "*"


class AddressRates:
    """Token buckets by address, in this process. Use on one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Tokens, and when there were so many.
        self._buckets: RecentKeys[tuple[float, float]] = RecentKeys(MAX_ADDRESSES, FULL_S)

    def take(self, source: str) -> None:
        """Count a call. ``source``: its client's address, or network. ``RateLimited``."""
        self._take(source, PER_MINUTE, BURST)
        self._take(EVERYBODY, PER_MINUTE * ALL_TOGETHER, BURST * ALL_TOGETHER)

    def _take(self, name: str, per_minute: float, burst: float) -> None:
        now = self._clock.monotonic()
        tokens, at = self._buckets.get(name, now) or (burst, now)
        tokens = min(burst, tokens + (now - at) * per_minute / 60)
        if tokens < 1:
            wait_s = math.ceil((1 - tokens) * 60 / per_minute)
            raise RateLimited(
                f"There are too many calls without a key. Wait {wait_s} s and call again.", wait_s
            )
        self._buckets.put(name, (tokens - 1, now), now)
