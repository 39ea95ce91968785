"""What submits have left of rates and budgets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class RateLeft:
    """What is left of a tenant's rate."""

    limit: int  # requests a minute
    remaining: int  # that could be submitted now
    reset_s: float  # until the whole burst can be


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """What is left of a tenant's budget in its period."""

    limit: Decimal
    remaining: Decimal  # negative: a budget that does not stop is exceeded
    currency: str
    resets_at: datetime  # start of the next period, UTC
    stops: bool = True  # requests, once it is used up

    def forbids(self, currency: str) -> bool:
        """Return True if it is exceeded, and stops what has a price in this currency."""
        return self.stops and self.currency == currency and self.remaining < 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a tenant had left after a submit, as its statement has seen it. None: it has none."""

    rate: RateLeft | None = None
    budget: BudgetLeft | None = None
