"""Roll-up of old usage: the lines of a day become one row for each of the groups that can be asked
for. The sums stay the same, to the last digit."""

from __future__ import annotations

from serve_app.postgres.database import Database
from serve_app.queue.store.config import Retention

AT_ONCE = 5_000
MAX_ROUNDS = 20
"""Statements of one run: the rest is rolled up by the next one."""

SUM_BY_DAY = """
    INSERT INTO usage_days AS d (
        day, tenant, key_id, endpoint, state, price, requests, run_s, steps, units, images,
        megapixels, billed, amount)
    SELECT {day}, {tenant}, {key_id}, endpoint, state, price, {requests}, sum(run_s::numeric),
           sum(steps), sum(units::numeric), sum(images), sum(megapixels), sum(billed), sum(amount)
    FROM gone WHERE {where} GROUP BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (tenant, day, endpoint, state, key_id, price) DO UPDATE SET
        requests = d.requests + excluded.requests,
        run_s = d.run_s + excluded.run_s,
        steps = d.steps + excluded.steps,
        units = d.units + excluded.units,
        images = d.images + excluded.images,
        megapixels = d.megapixels + excluded.megapixels,
        billed = d.billed + excluded.billed,
        amount = d.amount + excluded.amount
"""
"""Adds the rows of ``gone``, of ``usage`` or ``usage_days``, to the sums of their days. Its fields
are expressions over a row of ``gone``."""

DAY = "(at AT TIME ZONE 'UTC')::date"
"""Day of a line of ``usage``."""

# Owners of lines, one index step for each: copies of requests have a tenant that is in no table.
ROLL_UP = f"""
-- name: roll_up_usage
WITH RECURSIVE owner AS (
    (SELECT tenant FROM usage ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT u.tenant FROM usage u WHERE u.tenant > o.tenant ORDER BY u.tenant LIMIT 1)
    FROM owner o WHERE o.tenant IS NOT NULL
),
old AS (
    SELECT u.request_id FROM owner o CROSS JOIN LATERAL (
        SELECT request_id FROM usage WHERE tenant = o.tenant
          AND at < date_trunc('day', now() - make_interval(secs => %(detail_s)s), 'UTC')
        ORDER BY at LIMIT %(most)s
    ) u LIMIT %(most)s
),
gone AS (
    DELETE FROM usage u USING old o WHERE u.request_id = o.request_id RETURNING u.*
),
summed AS ({
    SUM_BY_DAY.format(day=DAY, tenant="tenant", key_id="key_id", requests="count(*)", where="true")
})
SELECT count(*) FROM gone
"""


class UsageRollup:
    """Rolls up usage that is older than the detail that is kept. One process at a time does it."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def roll_up(self) -> None:
        """Roll up whole days (UTC), a bounded number of lines."""
        days = self._retention.usage_detail_days
        if days is None:
            return
        params = {"detail_s": days * 86400.0, "most": AT_ONCE}
        for _ in range(MAX_ROUNDS):
            rolled = await self._database.value(ROLL_UP, params)
            if rolled < AT_ONCE:
                return
