"""What submits have left of rates and budgets, and warnings about budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol


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


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a tenant had left after a submit, as its statement has seen it. None: it has none."""

    rate: RateLeft | None = None
    budget: BudgetLeft | None = None


@dataclass(frozen=True, slots=True)
class BudgetWarning:
    """A threshold of a budget that was reached, claimed to call its webhook."""

    tenant: str
    period: datetime  # its start
    threshold: float  # share of the budget
    at: datetime
    used: Decimal  # cost, and what queued and running requests have reserved
    budget: Decimal
    currency: str
    url: str
    tries: int  # this one included

    @property
    def id(self) -> str:
        """The same for every try."""
        return f"{self.tenant}:{self.period:%Y-%m-%d}:{self.threshold:g}"


class BudgetWarnings(Protocol):
    """Outbox of warnings."""

    async def claim(self, claimed_s: float, limit: int) -> Sequence[BudgetWarning]:
        """Warnings that are due. No other process gets them for ``claimed_s``."""
        ...

    async def settle(self, warning: BudgetWarning, again_after_s: float | None) -> None:
        """Record the end of a try. None: it was delivered, or is given up."""
        ...
