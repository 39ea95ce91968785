"""Sums of usage lines, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from psycopg.errors import InvalidParameterValue

from serve_app.domain.billing.price import Price
from serve_app.domain.billing.sums import MAX_SUMS, SumsQuery, UsageGroup, UsageSum
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.store.billing import LINES

_GROUPS = {
    UsageGroup.DAY: "(at AT TIME ZONE %(zone)s)::date",
    UsageGroup.HOUR: "date_trunc('hour', at, %(zone)s)",
    UsageGroup.MINUTE: "date_trunc('minute', at)",
    UsageGroup.TENANT: "tenant",
    UsageGroup.KEY: "coalesce(key_id, '')",
    UsageGroup.ENDPOINT: "endpoint",
}


@cache
def sums_statement(by: frozenset[UsageGroup], *, all_tenants: bool) -> str:
    """Statement for one kind of sums: a condition that a parameter turns off would hide an
    index."""
    columns = [sql if group in by else "NULL" for group, sql in _GROUPS.items()]
    priced = "price" if UsageGroup.ENDPOINT in by else "NULL::jsonb"
    grouped = ", ".join(str(n) for n, group in enumerate(_GROUPS, start=1) if group in by)
    by_price = "price" if UsageGroup.ENDPOINT in by else "price ->> 'currency'"
    return f"""
-- name: sum_usage
SELECT {", ".join(columns)}, {priced}, price ->> 'currency',
       sum(requests)::bigint, coalesce(sum(requests) FILTER (WHERE state = 'succeeded'), 0)::bigint,
       sum(images)::bigint, sum(run_s), sum(steps)::bigint, sum(units),
       coalesce(sum(billed), 0), coalesce(sum(amount), 0)
FROM {LINES} lines
WHERE at >= %(since)s::timestamptz AND at < %(until)s::timestamptz
  {"" if all_tenants else "AND tenant = %(tenant)s"}
  AND (%(every)s::boolean OR endpoint = ANY(%(endpoints)s::text[]))
GROUP BY {grouped}{", " if grouped else ""}{by_price}
ORDER BY {grouped}{", " if grouped else ""}{by_price} LIMIT {MAX_SUMS + 1}
"""


async def read_sums(reads: FairReads, query: SumsQuery) -> Sequence[UsageSum]:
    """See ``Ledger.sums``."""
    by = frozenset(query.by)
    params = {
        "tenant": query.tenant,
        "since": query.since,
        "until": query.until,
        "zone": query.zone,
        "every": not query.endpoints,
        "endpoints": list(query.endpoints),
    }
    statement = sums_statement(by, all_tenants=query.tenant is None)
    try:
        rows = await reads.rows(query.tenant, statement, params)
    except InvalidParameterValue:  # the ingress's machine knows more zones, or newer ones
        what = f"timezone should be one that the database knows, too: {query.zone} is none"
        problem = FieldProblem(("query", "timezone"), what, "value_error", None, query.zone)
        raise InvalidInput(f"The query parameter {what}.", (problem,)) from None
    if len(rows) > MAX_SUMS:
        raise InvalidInput(
            f"These are more than {MAX_SUMS} sums. Ask for a shorter time, or by fewer groups."
        )
    return [_sum(row, by_endpoint=UsageGroup.ENDPOINT in by) for row in rows]


def _sum(row: tuple[Any, ...], *, by_endpoint: bool) -> UsageSum:
    day, hour, minute, tenant, key_id, endpoint, price, currency, *figures = row
    requests, successes, images, run_s, steps, units, billed, amount = figures
    return UsageSum(
        currency=currency,
        requests=requests,
        successes=successes,
        images=images,
        run_s=run_s,
        steps=steps,
        amount=amount,
        day=day,
        hour=hour,
        minute=minute,
        tenant=tenant,
        key_id=key_id,
        endpoint=endpoint,
        price=None if price is None else Price.from_json(price),
        billed=billed if by_endpoint else None,
        units=units if by_endpoint else None,
    )
