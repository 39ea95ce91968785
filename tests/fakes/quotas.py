"""Rates and budgets of the fake queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

from serve_app.domain.billing.budgets import Allowance
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

    def admit(self, new: NewRequest) -> tuple[Decimal | None, Allowance | None]:
        """What ``new`` reserves, and what is left. ``RateLimited``, ``BudgetExhausted``."""
        quota = self._limits.quota_of(new.tenant)
        if quota is None:
            return None, None
        reserved = quota.reserved_for(new, 1.0)
        now = self._clock.monotonic()
        arrival = max(self._arrivals.get(new.tenant, now), now)
        free = Decimal(0)
        if quota.budget is not None:
            free = quota.budget.amount - self._used(new.tenant)
        left = {"remaining": 0, "reset_s": 0, "free": free, "now": self._clock.now().timestamp()}
        if quota.every_s is not None:
            over_s = arrival + quota.every_s - now - quota.burst * quota.every_s
            if over_s > 0:
                left["reset_s"] = arrival - now
                raise quota.refusal(left | {"why": "rate", "wait_s": over_s})
            arrival += quota.every_s
            left["reset_s"] = arrival - now
            left["remaining"] = int(quota.burst - (arrival - now) / quota.every_s)
        needed = max(reserved or Decimal(0), quota.needed_for(new) or Decimal(0))
        if quota.budget is not None and quota.budget.stop and needed > max(free, Decimal(0)):
            raise quota.refusal(left | {"why": "budget", "needed": needed})
        self._arrivals[new.tenant] = arrival
        left["free"] = free - (reserved or 0)
        return reserved, quota.allowance(left)


class FakeCostBook:
    """Times and quantities that a test puts here."""

    def __init__(self) -> None:
        self.hours: list[ReplicaHours] = []
        self.units: list[MadeUnits] = []

    async def replica_hours(self, since: datetime, until: datetime) -> Sequence[ReplicaHours]:
        return self.hours

    async def made_units(self, since: datetime, until: datetime) -> Sequence[MadeUnits]:
        return self.units
