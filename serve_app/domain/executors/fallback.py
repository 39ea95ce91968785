"""Fallback: the endpoint that runs a request if its own would be too slow, or fails."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from serve_app.domain.billing.price import DECIMALS, MOST, NOTHING, Price, Quantities
from serve_app.domain.errors import (
    AppNotStarted,
    Cancelled,
    ContentBlocked,
    Expired,
    FailedByHand,
    GenerationError,
    HostedUnconfirmed,
    Misconfigured,
    OutOfMemory,
    ReplicaDied,
    SecretMissing,
    Unavailable,
    UploadPolicyFailed,
    WeightsUnavailable,
)

_USUAL = (
    AppNotStarted,
    Misconfigured,
    OutOfMemory,
    ReplicaDied,
    SecretMissing,
    Unavailable,
    WeightsUnavailable,
)
USUAL_ERRORS = tuple(error.code for error in _USUAL)
"""Codes of failures that are not the request's fault, so that another endpoint may succeed."""

NEVER = {
    Cancelled.code: "the request is over",
    ContentBlocked.code: "the safety policy has decided",
    Expired.code: "the request is over",
    FailedByHand.code: "an operator has ended it",
    HostedUnconfirmed.code: "it may be running there, and would be paid for twice",
    UploadPolicyFailed.code: "another endpoint has the same bucket",
}
"""Codes of failures that no fallback may follow, with the reason."""

ERRORS = frozenset(
    # A replica's full disk is ``Unavailable``, and an entry that cannot be served as it is written
    # ``Misconfigured``, although these are no errors of a generation.
    error.code
    for error in (*GenerationError.__subclasses__(), Misconfigured, Unavailable)
    if error.code not in NEVER
)
"""Codes of failures that a fallback may follow."""

_BUDGET = re.compile(r"([0-9]+(?:\.[0-9]+)?) ([A-Z]{3})/(day|month)")


class FallbackReason(StrEnum):
    """Reason why a queued request falls back. After a failure, it is the failure's code."""

    MAX_WAIT = "max_wait"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class FallbackBudget:
    """Money that requests of an endpoint that fall back may cost in a period, in UTC."""

    amount: Decimal
    currency: str
    period: str  # day, month

    @classmethod
    def parse(cls, text: str) -> FallbackBudget:
        """Read a text such as ``20 EUR/day``. ``ValueError``."""
        match = _BUDGET.fullmatch(text)
        amount = Decimal(match[1]) if match else Decimal(0)
        if match is None or not 0 < amount < MOST or amount != round(amount, DECIMALS):
            raise ValueError(
                f"`{text}` should be an amount, a currency and a period, such as `20 EUR/day` or "
                "`500 USD/month`"
            )
        return cls(amount, match[2], match[3])

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}/{self.period}"

    def to_json(self) -> dict[str, str]:
        """Part of a plan, as the function ``spend_on_fallback`` reads it."""
        return {"amount": str(self.amount), "currency": self.currency, "period": self.period}


@dataclass(frozen=True, slots=True)
class Fallback:
    """Where one request may run instead. It is fixed at the submit."""

    endpoint: str
    pool: str
    errors: tuple[str, ...] = ()  # codes of failures after which it runs there
    max_wait_s: float | None = None  # runs there rather than wait longer; None: it waits
    price: Price | None = None  # of the other endpoint
    cost: Decimal = Decimal(0)  # there, as far as a budget needs it
    budget: FallbackBudget | None = None
    fields: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    same_pool: bool = False
    expected_s: float = 1.0  # of a slot there
    expected: Quantities = NOTHING  # what it makes there; not stored

    def to_json(self) -> dict[str, Any]:
        """The column ``fallback``. What is none is left out, so that SQL sees NULL."""
        budget = self.budget
        stored = {
            "endpoint": self.endpoint,
            "pool": self.pool,
            "errors": [*self.errors],
            "max_wait_s": self.max_wait_s,
            "price": self.price and self.price.to_json(),
            "cost": str(self.cost),
            "budget": budget and budget.to_json(),
            "fields": dict(self.fields),
            "same_pool": self.same_pool,
            "expected_s": self.expected_s,
        }
        return {name: value for name, value in stored.items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Fallback:
        price, budget = stored.get("price"), stored.get("budget")
        return cls(
            endpoint=stored["endpoint"],
            pool=stored["pool"],
            errors=tuple(stored["errors"]),
            max_wait_s=stored.get("max_wait_s"),
            price=None if price is None else Price.from_json(price),
            cost=Decimal(stored["cost"]),
            budget=budget
            and FallbackBudget(Decimal(budget["amount"]), budget["currency"], budget["period"]),
            fields=stored["fields"],
            same_pool=stored["same_pool"],
            expected_s=stored["expected_s"],
        )


def rename_fields(input: Mapping[str, Any], fields: Mapping[str, str | None]) -> dict[str, Any]:
    """Input with the names of the other endpoint. ``fields``: own name → name there; None: it is
    left out."""
    return {
        there: value
        for name, value in input.items()
        if (there := fields.get(name, name)) is not None
    }


@dataclass(frozen=True, slots=True)
class FallbackMove:
    """A queued request that is to run at its fallback."""

    request_id: str
    reason: FallbackReason


@dataclass(frozen=True, slots=True)
class QueuedGroup:
    """Requests of a tenant that are queued in a pool for the endpoint at which they run: their own,
    or the one to which they fell back."""

    pool: str
    tenant: str
    endpoint: str


class Fallbacks(Protocol):
    """Queued requests that run elsewhere than they were submitted for."""

    async def move(self, moves: Sequence[FallbackMove]) -> Sequence[str]:
        """Move queued requests to their fallbacks, and return those that have moved. Left out are
        those that have started, ended or moved before, that go on from a snapshot, and that the
        budget of their endpoint does not cover."""
        ...

    async def period_cost(self, endpoint: str, currency: str) -> Decimal:
        """What requests of the endpoint that fell back in the current period cost, as counted when
        they did."""
        ...

    async def queued_outside(self, pools: Collection[str]) -> Sequence[QueuedGroup]:
        """What is queued in none of ``pools``, without realtime sessions."""
        ...

    async def queued_within(self, pools: Collection[str]) -> Sequence[QueuedGroup]:
        """What is queued in ``pools`` for its own endpoint, without realtime sessions."""
        ...

    async def change_pool(self, group: QueuedGroup, pool: str) -> int:
        """Let requests wait in another pool, in their order, and return how many have moved. They
        keep their rank, price and snapshots."""
        ...
