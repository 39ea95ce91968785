"""Rates and budgets of the fake queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

from serve_app.domain.billing.budgets import BudgetWarning
from serve_app.domain.billing.report import MadeUnits, ReplicaHours
from serve_app.domain.ports import Clock
from serve_app.domain.request import NewRequest
from serve_app.queue.store.config import QueueLimits


class FakeQuotas:
    """``used``: what a tenant has spent and reserved."""

    def __init__(self, clock: Clock, limits: QueueLimits, used: Callable[[str], Decimal]) -> None:
        self._clock = clock
        self._limits = limits
        self._used = used
        self._arrivals: dict[str, float] = {}

    def admit(self, new: NewRequest) -> Decimal | None:
        """What ``new`` reserves. Raises ``RateLimited`` or ``BudgetExhausted``."""
        quota = self._limits.quota_of(new.tenant)
        if quota is None:
            return None
        reserved = quota.reserved(new.price, new.expected, 1.0)
        now = self._clock.monotonic()
        arrival = max(self._arrivals.get(new.tenant, now), now)
        verdict: dict[str, object] = {"remaining": 0, "reserved": reserved or 0}
        if quota.every_s is not None:
            arrival += quota.every_s
            over_s = arrival - now - quota.burst * quota.every_s
            if over_s > 0:
                reset_s = arrival - quota.every_s - now
                verdict |= {"why": "rate", "wait_s": over_s, "reset_s": reset_s}
                raise quota.refusal(verdict)
        if quota.budget is not None and reserved and quota.budget.stop:
            free = quota.budget.amount - self._used(new.tenant)
            if reserved > free:
                raise quota.refusal(verdict | {"why": "budget", "free": free})
        self._arrivals[new.tenant] = arrival
        return reserved


class FakeBudgetWarnings:
    """Warnings that a test puts here. ``settled``: each, and when it is due again."""

    def __init__(self) -> None:
        self.due: list[BudgetWarning] = []
        self.settled: list[tuple[BudgetWarning, float | None]] = []

    async def claim(self, claimed_s: float, limit: int) -> Sequence[BudgetWarning]:
        claimed, self.due = self.due[:limit], self.due[limit:]
        return claimed

    async def settle(self, warning: BudgetWarning, again_after_s: float | None) -> None:
        self.settled.append((warning, again_after_s))


class FakeCostBook:
    """Times and quantities that a test puts here."""

    def __init__(self) -> None:
        self.hours: list[ReplicaHours] = []
        self.units: list[MadeUnits] = []

    async def replica_hours(self, since: datetime, until: datetime) -> Sequence[ReplicaHours]:
        return self.hours

    async def made(self, since: datetime, until: datetime) -> Sequence[MadeUnits]:
        return self.units
