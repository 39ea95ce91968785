"""Budgets of tenants: what is left of them, and warnings.

Each threshold is warned of once in a period, in the audit log and as a webhook, whose body has
amounts as text, because JSON numbers are binary.
"""

from __future__ import annotations

from decimal import Decimal

from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.budgets import BudgetLeft
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits

WARN_EVERY_S = 10.0
LOOK_BACK_S = 300  # for ends of requests of the earlier period: many looks, so one may fail

_USED = """q.reserved - q.settled
    - budget_freed(q.tenant, q.currency, q.period, q.settled_at, 'infinity')"""
"""SQL for what was spent and reserved of a row ``q`` of ``tenant_quotas``."""

# A budget is counted from the first submit that it admits; before, what has ended is summed up.
_SPENT = f"""coalesce(
    (SELECT {_USED} FROM tenant_quotas q
     WHERE q.tenant = b.tenant AND q.unit = b.unit AND q.currency = b.currency
       AND q.period = date_trunc(b.unit, now(), 'UTC')),
    (SELECT sum(u.amount) FROM usage u
     WHERE u.tenant = b.tenant AND u.price ->> 'currency' = b.currency
       AND u.at >= date_trunc(b.unit, now(), 'UTC')
       AND u.submitted_at >= date_trunc(b.unit, now(), 'UTC')),
    0)"""
"""SQL for what was spent and reserved of a budget ``b`` in its current period."""

SHOW = f"""
-- name: show_budget
SELECT now(), {_SPENT}
FROM (SELECT %(tenant)s::text, %(unit)s::text, %(currency)s::text) AS b(tenant, unit, currency)
"""

# What such a tenant spends is not counted, so a budget that comes back begins with a sum.
FORGET = """
-- name: forget_budgets
UPDATE tenant_quotas SET unit = 'changed'
WHERE unit IN ('day', 'month') AND tenant <> ALL(%(tenants)s::text[])
"""

# A period goes on to be looked at while requests of it end: one that was submitted in its last
# seconds, or is billed by its time, may reach a threshold when the next period has begun. All that
# has ended has its line, so no reserve counts.
_ENDED = """u.tenant = b.tenant AND u.price ->> 'currency' = b.currency
         AND u.submitted_at >= p.earlier AND u.submitted_at < p.begun"""
"""SQL for the lines ``u`` of usage that a budget ``b`` had in its earlier period."""

_DETAIL = """json_build_object('threshold', threshold, 'used', used::text, 'budget', budget::text,
    'currency', currency, 'period', period)"""
WARN = f"""
-- name: warn_of_budgets
WITH used AS (
    SELECT b.*, spent.* FROM json_to_recordset(%(budgets)s::json) AS b(
        tenant text, unit text, currency text, budget numeric, warn_at json, url text)
    CROSS JOIN LATERAL (
        SELECT date_trunc(b.unit, now(), 'UTC') AS begun, date_trunc(
            b.unit, date_trunc(b.unit, now(), 'UTC') - interval '1 s', 'UTC') AS earlier
    ) p
    CROSS JOIN LATERAL (
        SELECT p.begun AS period, {_SPENT} AS used
        UNION ALL
        SELECT p.earlier, (SELECT sum(u.amount) FROM usage u WHERE u.at >= p.earlier AND {_ENDED})
        WHERE EXISTS (
            SELECT FROM usage u WHERE u.at >= now() - interval '{LOOK_BACK_S} s' AND {_ENDED})
    ) spent
),
warned AS (
    INSERT INTO budget_warnings (tenant, period, threshold, used, budget, currency)
    SELECT tenant, period, share::double precision, used, budget, currency
    FROM used CROSS JOIN LATERAL json_array_elements_text(warn_at) share
    WHERE used >= budget * share::numeric
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    RETURNING *
),
named AS (
    SELECT w.*, u.url, concat_ws(':', w.tenant, to_char(w.period, 'YYYY-MM-DD'), w.threshold) AS id
    FROM warned w JOIN used u ON u.tenant = w.tenant AND u.period = w.period
    WHERE u.url IS NOT NULL
),
put AS (
    INSERT INTO jobs (kind, key, tenant, payload)
    SELECT 'notice', id, tenant, jsonb_build_object(
        'url', url, 'about', id, 'body', jsonb_build_object(
            'type', 'budget.warning', 'id', id, 'tenant', tenant, 'threshold', threshold,
            'used', used::text, 'budget', budget::text, 'currency', currency,
            'period_start', period, 'created_at', created_at))
    FROM named ON CONFLICT (kind, key) DO NOTHING
)
{insert_audit("tenant", "warned", _DETAIL)}
"""


class PostgresBudgets:
    """Budgets of the tenants that have one."""

    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._limits = limits

    async def remaining(self, tenant: str) -> BudgetLeft | None:
        """What is left of a tenant's budget now. None: it has none."""
        quota = self._limits.quota_of(tenant)
        if quota is None or quota.budget is None:
            return None
        budget = quota.budget
        params = {"tenant": tenant, "unit": budget.period, "currency": budget.currency}
        ((now, used),) = await self._database.rows(SHOW, params)
        return quota.budget_left(budget.amount - Decimal(used), now)

    async def warn(self) -> None:
        """Record the thresholds that were reached, and which tenants have no budget any more."""
        budgets = [
            {
                "tenant": tenant,
                "unit": budget.period,
                "currency": budget.currency,
                "budget": str(budget.amount),
                "warn_at": budget.warn_at,
                "url": budget.webhook,
            }
            for tenant, limits in self._limits.tenants.items()
            if (budget := limits.budget) is not None
        ]
        tenants = [budget["tenant"] for budget in budgets]
        await self._database.rows(FORGET, {"tenants": tenants})
        if budgets:
            await self._database.rows(
                WARN,
                {
                    "budgets": messages.compact(budgets),
                    **audit_params(Actor("operator"), "budget.warning"),
                },
            )
