"""Past usage and ended requests (PostgreSQL behind the port ``Ledger``), and number and
usage of realtime sessions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.billing.price import Price, made_by_frame
from serve_app.domain.billing.sums import SumsQuery, UsageSum
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Usage
from serve_app.domain.request import Priority, Request, State
from serve_app.domain.usage import EndedRequest, EndedRequestFilter, RequestTotals, UsageTotals
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.billing.sums import read_sums
from serve_app.queue.fairness.fair_queue import LaneCharges
from serve_app.queue.store.billing import BILL_COLUMNS, LINES, QUANTITY, bill
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import COLUMNS, SOURCE, known_id, request_from_row
from serve_app.telemetry.queue_metrics import QueueMeter

CONSUMED = f"""
SELECT width_bucket(at, %(edges)s::timestamptz[]) - 1, endpoint, sum(requests)::bigint,
       sum(run_s)::double precision, sum(steps)::bigint, sum(units)::double precision, price,
       coalesce(sum(billed), 0), coalesce(sum(amount), 0)
FROM {LINES} lines
WHERE tenant = %(tenant)s AND at >= %(since)s::timestamptz AND at < %(until)s::timestamptz
  AND (%(all)s::boolean OR endpoint = ANY(%(endpoints)s::text[]))
GROUP BY 1, 2, price ORDER BY 1, 2, price
"""
# A look into JSON unescapes all its strings, also those that PostgreSQL cannot hold, which a
# message may quote. So the escapes are removed first; codes and field names have none.
_FAILURE = r"""
(regexp_replace(r.outcome::text, '\\(u[0-9a-fA-F]{4}|.)', '?', 'g')::json -> 'failure')
"""
_CLIENT_S = f"""(
    {_FAILURE} ->> 'field' IS NOT NULL OR {_FAILURE} ->> 'code' = ANY(%(client_codes)s::text[])
)"""
_TOOK = "extract(epoch FROM r.finished_at - r.started_at)::double precision"
_WAITED = "extract(epoch FROM r.started_at - r.created_at)::double precision"
_SHARES = "percentile_cont(%(shares)s::double precision[]) WITHIN GROUP"
MEASURED = f"""
SELECT width_bucket(r.finished_at, %(edges)s::timestamptz[]) - 1, r.endpoint, count(*),
       count(*) FILTER (WHERE r.state = 'succeeded'),
       count(*) FILTER (WHERE r.state <> 'succeeded' AND {_CLIENT_S}),
       {_SHARES} (ORDER BY {_TOOK}), {_SHARES} (ORDER BY {_WAITED})
FROM requests r
WHERE r.tenant = %(tenant)s AND r.endpoint = ANY(%(endpoints)s::text[])
  AND r.finished_at >= %(since)s::timestamptz AND r.finished_at < %(until)s::timestamptz
GROUP BY 1, 2 ORDER BY 1, 2
"""
_ENDS = {
    None: "r.finished_at IS NOT NULL",
    EndedRequest.SUCCESS: "r.state = 'succeeded'",
    EndedRequest.CLIENT_ERROR: f"r.state IN ('failed', 'cancelled', 'expired') AND {_CLIENT_S}",
    EndedRequest.SERVER_ERROR: f"r.state IN ('failed', 'cancelled', 'expired') AND NOT {_CLIENT_S}",
}
_ENDED = """
SELECT {columns} FROM {source}
WHERE r.tenant = %(tenant)s AND r.endpoint = %(endpoint)s
  AND r.finished_at >= %(since)s::timestamptz AND r.finished_at < %(until)s::timestamptz
  AND {end}{one}{before}
ORDER BY r.finished_at DESC, r.id DESC LIMIT %(limit)s
"""


class PostgresLedger:
    """Implements ``Ledger``."""

    def __init__(self, reads: FairReads) -> None:
        self._reads = reads

    async def usage_totals(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str] = ()
    ) -> Sequence[UsageTotals]:
        params = {
            "tenant": tenant,
            "edges": list(edges),
            "since": edges[0],
            "until": edges[-1],
            "all": not endpoints,
            "endpoints": list(endpoints),
        }
        rows = await self._reads.rows(tenant, CONSUMED, params)
        return [
            UsageTotals(
                bucket=bucket,
                endpoint=endpoint,
                requests=requests,
                usage=Usage(run_s, steps, units),
                price=None if price is None else Price.from_json(price),
                billed=billed,
                amount=amount,
            )
            for bucket, endpoint, requests, run_s, steps, units, price, billed, amount in rows
        ]

    async def sums(self, query: SumsQuery) -> Sequence[UsageSum]:
        return await read_sums(self._reads, query)

    async def request_totals(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        *,
        shares: Sequence[float],
        client_codes: Collection[str],
    ) -> Sequence[RequestTotals]:
        params = {
            "tenant": tenant,
            "edges": list(edges),
            "since": edges[0],
            "until": edges[-1],
            "endpoints": list(endpoints),
            "shares": list(shares),
            "client_codes": list(client_codes),
        }
        rows = await self._reads.rows(tenant, MEASURED, params)
        return [
            RequestTotals(bucket, endpoint, requests, fine, wrong, took or (), waited or ())
            for bucket, endpoint, requests, fine, wrong, took, waited in rows
        ]

    async def ended_requests(self, search: EndedRequestFilter, limit: int) -> Sequence[Request]:
        params: dict[str, Any] = {
            "tenant": search.tenant,
            "endpoint": search.endpoint,
            "since": search.since,
            "until": search.until,
            "limit": limit,
        }
        if search.end in (EndedRequest.CLIENT_ERROR, EndedRequest.SERVER_ERROR):
            params["client_codes"] = list(search.client_codes)
        if search.request_id is not None:
            params["request_id"] = known_id(search.request_id)
        if search.before is not None:
            params["before_at"], params["before_id"] = search.before
        rows = await self._reads.rows(search.tenant, ended_statement(search), params)
        return [request_from_row(row).request for row in rows]


def ended_statement(search: EndedRequestFilter) -> str:
    """Statement for one kind of search: a condition that a parameter turns off would hide
    an index.
    """
    return _ENDED.format(
        columns=COLUMNS,
        source=SOURCE,
        end=_ENDS[search.end],
        one="" if search.request_id is None else " AND r.id = %(request_id)s::uuid",
        before=""
        if search.before is None
        else " AND (r.finished_at, r.id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)",
    )


# Realtime sessions. The usage of their frames is one usage line each, under its own id.

OPEN_SESSIONS = f"""
-- name: count_sessions
SELECT count(*) FROM requests
WHERE priority = {int(Priority.REALTIME)} AND state IN ('queued', 'running')
  AND tenant = %(tenant)s AND pool = %(pool)s
"""

COUNT = f"""
INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, images,
    megapixels, {BILL_COLUMNS})
SELECT %(frame)s::uuid, tenant, endpoint, state, attempt, run_s, steps, units, images,
       megapixels, {bill("CASE state WHEN 'succeeded' THEN " + QUANTITY + " ELSE 0 END")}
FROM (
    SELECT r.tenant, r.endpoint, r.key_id, r.price, now() AS created_at,
           %(state)s::text AS state, %(attempt)s::integer AS attempt,
           %(run_s)s::double precision AS run_s, %(steps)s::integer AS steps,
           %(units)s::double precision AS units, %(images)s::integer AS images,
           %(megapixels)s::integer AS megapixels, 0 AS seconds, 1 AS share,
           -- A frame reserves nothing, and what it costs counts towards a budget at once.
           0 * r.reserved AS reserved
    FROM requests r WHERE r.id = %(session)s::uuid
) frame
ON CONFLICT (request_id) DO NOTHING
RETURNING tenant, (SELECT pool FROM requests WHERE id = %(session)s::uuid)
"""


class RealtimeSessions:
    """Count realtime sessions, record their frames, and charge these to the tenants' lanes."""

    def __init__(
        self, database: Database, charges: LaneCharges, limits: QueueLimits, metrics: QueueMeter
    ) -> None:
        self._database = database
        self._charges = charges
        self._limits = limits
        self._metrics = metrics

    async def open_sessions(self, tenant: str, pool: str) -> int:
        """Number of a tenant's sessions in a pool that wait for a slot or hold one."""
        return int(await self._database.value(OPEN_SESSIONS, {"tenant": tenant, "pool": pool}))

    async def record_frame(
        self, session: LeaseKey, request_id: str, state: State, usage: Usage
    ) -> None:
        """Count a frame once, however often this is called."""
        quantities = made_by_frame(usage)
        rows = await self._database.rows(
            COUNT,
            {
                "frame": request_id,
                "session": session.request_id,
                "attempt": session.attempt,
                "state": state,
                "run_s": usage.run_s,
                "steps": usage.steps,
                "units": usage.units,
                "images": quantities.images,
                "megapixels": quantities.megapixels,
            },
        )
        for tenant, pool in rows:
            self._charges.add(pool, tenant, usage.run_s)
            self._metrics.add_run_time(self._limits.metrics_label(tenant), usage.run_s)
