"""Warnings about budgets: each threshold once in a period, in the audit log and as a webhook."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.billing.budgets import BudgetWarning
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits

WARN_EVERY_S = 10.0

WARN = """
-- name: warn_of_budgets
WITH used AS (
    SELECT b.tenant, b.url, b.warn_at, b.budget, b.currency, q.period,
           q.reserved - q.settled - budget_freed(q.tenant, q.period, q.settled_at, 'infinity')
               AS used
    FROM json_to_recordset(%(budgets)s::json) AS b(
        tenant text, unit text, currency text, budget numeric, warn_at json, url text)
    JOIN tenant_quotas q ON q.tenant = b.tenant AND q.unit = b.unit AND q.currency = b.currency
        AND q.period = date_trunc(b.unit, now(), 'UTC')
),
warned AS (
    INSERT INTO budget_warnings (tenant, period, threshold, used, budget, currency, url, next_at)
    SELECT tenant, period, share::double precision, used, budget, currency, url,
           CASE WHEN url IS NOT NULL THEN now() END
    FROM used CROSS JOIN LATERAL json_array_elements_text(warn_at) share
    WHERE used >= budget * share::numeric
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    RETURNING *
)
INSERT INTO audit (actor, address, action, subject, detail)
SELECT 'operator', '', 'budget.warning', tenant, json_build_object(
    'threshold', threshold, 'used', used::text, 'budget', budget::text, 'currency', currency,
    'period', period)
FROM warned
"""
CLAIM = """
-- name: claim_budget_warnings
WITH due AS (
    SELECT tenant, period, threshold FROM budget_warnings WHERE next_at <= now()
    ORDER BY next_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE budget_warnings w
SET tries = tries + 1, next_at = now() + make_interval(secs => %(claimed_s)s)
FROM due d WHERE (w.tenant, w.period, w.threshold) = (d.tenant, d.period, d.threshold)
RETURNING w.tenant, w.period, w.threshold, w.created_at, w.used, w.budget, w.currency, w.url,
          w.tries
"""
SETTLE = """
-- name: settle_budget_warning
UPDATE budget_warnings
SET next_at = now() + make_interval(secs => %(again_after_s)s::double precision)
WHERE tenant = %(tenant)s AND period = %(period)s::timestamptz AND threshold = %(threshold)s
"""


class PostgresBudgetWarnings:
    """Implements ``BudgetWarnings``."""

    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._limits = limits

    async def warn(self) -> None:
        """Record the thresholds that were reached."""
        budgets = [
            {
                "tenant": tenant,
                "unit": budget.period,
                "currency": budget.currency,
                "budget": str(budget.amount),
                "warn_at": budget.warn_at,
                "url": budget.webhook,
            }
            for tenant, each in self._limits.tenants.items()
            if (budget := each.budget) is not None
        ]
        if budgets:
            await self._database.rows(WARN, {"budgets": messages.compact(budgets)})

    async def claim(self, claimed_s: float, limit: int) -> Sequence[BudgetWarning]:
        rows = await self._database.rows(CLAIM, {"claimed_s": claimed_s, "limit": limit})
        return [BudgetWarning(*row) for row in rows]

    async def settle(self, warning: BudgetWarning, again_after_s: float | None) -> None:
        given = {
            "tenant": warning.tenant,
            "period": warning.period,
            "threshold": warning.threshold,
        }
        await self._database.rows(SETTLE, given | {"again_after_s": again_after_s})
