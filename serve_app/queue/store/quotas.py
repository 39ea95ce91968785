"""Rate and budget of a tenant, which the statement that stores its requests checks.

The function ``admit_requests`` of the database decides. Requests of tenants that have neither are
stored by a statement without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from serve_app.domain.billing.budgets import Allowance, BudgetLeft, RateLeft
from serve_app.domain.billing.price import Price, PriceUnit, Quantities
from serve_app.domain.errors import BudgetExhausted, DarkroomError, RateLimited
from serve_app.domain.request import NewRequest
from serve_app.settings import BudgetConfig, TenantLimits

REFUSED = "refused"
"""In place of the state of a request that was not stored."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a tenant."""

    tenant: str
    every_s: float | None = None  # that a request costs of its rate; None: no rate
    burst: int = 1
    budget: BudgetConfig | None = None

    @classmethod
    def of(cls, tenant: str, limits: TenantLimits) -> Quota | None:
        """None: it has neither a rate nor a budget."""
        rate = limits.requests_per_minute
        if rate is None:
            return None if limits.budget is None else cls(tenant, budget=limits.budget)
        burst = limits.requests_burst or max(1, rate // 6)
        return cls(tenant, 60.0 / rate, burst, limits.budget)

    def reservation(
        self, price: Price | None, quantities: Quantities, expected_s: float
    ) -> Decimal | None:
        """What a request reserves of the budget. None: it does not count towards it."""
        if self.budget is None or price is None or price.currency != self.budget.currency:
            return None
        if price.unit is PriceUnit.GPU_SECOND:
            return Decimal(str(round(expected_s, 3))) * price.amount
        return quantities.cost(price)

    def reserved_for(self, new: NewRequest, expected_s: float) -> Decimal | None:
        """The same for a request that may fall back: the higher of the two prices counts, so that
        the budget covers it wherever it runs."""
        own, other = self.reservation(new.price, new.expected, expected_s), new.fallback
        if other is None:
            return own
        there = self.reservation(other.price, other.expected, other.expected_s)
        return own if there is None else max(there, own or Decimal(0))

    def needed_for(self, new: NewRequest) -> Decimal | None:
        """What the budget has to have left for the steps of a workflow, which reserve it
        themselves. None: nothing."""
        return None if self.budget is None else new.needed.get(self.budget.currency)

    @property
    def columns(self) -> Mapping[str, object]:
        """Row of the statement's parameter ``quotas``."""
        budget = self.budget
        return {
            "tenant": self.tenant,
            "every_s": self.every_s,
            "burst": self.burst,
            "unit": budget and budget.period,
            "currency": budget and budget.currency,
            "budget": budget and str(budget.amount),
            "stops": budget is not None and budget.stop,
        }

    def allowance(self, left: Mapping[str, Any]) -> Allowance:
        """What the tenant has left after a statement. ``left``: as ``LEFT`` has it."""
        rate = None
        if self.every_s is not None:
            limit = round(60 / self.every_s)
            rate = RateLeft(limit, int(left["remaining"]), float(left["reset_s"]))
        if self.budget is None:
            return Allowance(rate)
        now = datetime.fromtimestamp(left["now"], UTC)
        return Allowance(rate, self.budget_left(Decimal(left["free"]), now))

    def budget_left(self, free: Decimal, now: datetime) -> BudgetLeft | None:
        """The budget, of which ``free`` is left. None: there is none."""
        budget = self.budget
        if budget is None:
            return None
        resets_at = next_period(now.astimezone(UTC), budget.period)
        return BudgetLeft(budget.amount, free, budget.currency, resets_at, budget.stop)

    def refusal(self, verdict: Mapping[str, Any]) -> DarkroomError:
        """Error for a request that was not stored."""
        allowance = self.allowance(verdict)
        if verdict["why"] == "rate" or self.budget is None:
            limit = round(60 / (self.every_s or 60))
            return RateLimited(
                f"You may submit {limit} requests a minute, and {self.burst} at once.",
                float(verdict["wait_s"]),
                allowance,
            )
        free, needed = Decimal(verdict["free"]), Decimal(verdict["needed"])
        currency, amount = self.budget.currency, self.budget.amount
        return BudgetExhausted(
            f"User is locked. Reason: Exhausted balance. Of the budget of {amount:f} {currency} a "
            f"{self.budget.period}, {max(free, Decimal(0)):f} {currency} are left, and this "
            f"request may cost {needed.normalize():f} {currency}. It begins anew with the next "
            f"{self.budget.period} (UTC), or an operator can raise it.",
            allowance,
        )


def next_period(now: datetime, unit: str) -> datetime:
    """Start of the day or month after ``now``, UTC."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "day":
        return midnight + timedelta(days=1)
    # From the 28th, 4 days later is in the next month.
    return (midnight.replace(day=28) + timedelta(days=4)).replace(day=1)


_LEFT = """'remaining', {0}remaining, 'reset_s', {0}reset_s, 'free', {0}free::text,
           'now', extract(epoch FROM now())"""
LEFT = f"""(SELECT json_build_object({_LEFT.format("l.")})
           FROM quota l WHERE l.tenant = s.tenant)::text"""
"""Column of a stored request ``s``: what its tenant has left after the whole statement."""


ADMITTED = """
quota AS MATERIALIZED (
    SELECT x.tenant, a.* FROM (
        SELECT t.tenant, t.reserves, t.needs,
               l.every_s, l.burst, l.unit, l.currency, l.budget, l.stops
        FROM (
            SELECT tenant, array_agg(reserved ORDER BY n) AS reserves,
                   array_agg(greatest(reserved, needed) ORDER BY n) AS needs
            FROM given GROUP BY tenant
        ) t
        JOIN json_to_recordset(%(quotas)s::json) AS l(
            tenant text, every_s double precision, burst integer, unit text, currency text,
            budget numeric, stops boolean) ON l.tenant = t.tenant
        -- In one order: two statements that admit the same tenants do not deadlock.
        ORDER BY t.tenant
    ) x CROSS JOIN LATERAL admit_requests(
        x.tenant, x.every_s, x.burst, x.unit, x.currency, x.budget, x.stops, x.reserves,
        x.needs) a
),
decided AS MATERIALIZED (
    SELECT g.*, q.verdicts[row_number() OVER (PARTITION BY g.tenant ORDER BY g.n)] AS why,
           q.wait_s, q.remaining, q.reset_s, q.free
    FROM given g JOIN quota q ON q.tenant = g.tenant
),
new AS (SELECT * FROM decided WHERE why = ''),
"""
"""CTEs between ``given``, the requests of a batch, and ``new``, those of them that are stored."""

REFUSALS = f"""
UNION ALL
SELECT id::text, '{REFUSED}', NULL, 0, NULL, 0, NULL, NULL, json_build_object(
           'why', why, 'wait_s', wait_s, {_LEFT.format("")},
           'needed', coalesce(greatest(reserved, needed), 0)::text)::text, NULL
FROM decided WHERE why <> ''
"""

RELEASE = """
-- name: release_reserved
UPDATE tenant_quotas SET reserved = reserved - %(amount)s::numeric
WHERE tenant = %(tenant)s AND period <= now()
"""
"""What a request reserved that was not stored, because it repeats another one."""
