"""Looking back: PostgreSQL behind the port ``Ledger``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.ledger import Consumed, End, EndedSearch, Measured
from serve_app.domain.outcome import Usage
from serve_app.domain.request import Request
from serve_app.queue.database import Database
from serve_app.queue.rows import COLUMNS, SOURCE, known_id, stored

CONSUMED = """
SELECT width_bucket(at, %(edges)s::timestamptz[]) - 1, endpoint, count(*), sum(run_s),
       sum(steps)::bigint, sum(units)
FROM usage
WHERE tenant = %(tenant)s AND at >= %(since)s::timestamptz AND at < %(until)s::timestamptz
  AND (%(all)s::boolean OR endpoint = ANY(%(endpoints)s::text[]))
GROUP BY 1, 2 ORDER BY 1, 2
"""
# Whoever looks into JSON has all its strings unescaped, also those that PostgreSQL cannot hold,
# which a message may quote: so the escapes go first. Neither codes nor names of fields have any.
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
WHERE r.tenant = %(tenant)s AND r.endpoint = ANY(%(endpoints)s::text[]) AND r.deleted_at IS NULL
  AND r.finished_at >= %(since)s::timestamptz AND r.finished_at < %(until)s::timestamptz
GROUP BY 1, 2 ORDER BY 1, 2
"""
_ENDS = {
    None: "r.finished_at IS NOT NULL",
    End.SUCCESS: "r.state = 'succeeded'",
    End.CLIENT_ERROR: f"r.state IN ('failed', 'cancelled', 'expired') AND {_CLIENT_S}",
    End.SERVER_ERROR: f"r.state IN ('failed', 'cancelled', 'expired') AND NOT {_CLIENT_S}",
}
_ENDED = """
SELECT {columns} FROM {source}
WHERE r.tenant = %(tenant)s AND r.endpoint = %(endpoint)s AND r.deleted_at IS NULL
  AND r.finished_at >= %(since)s::timestamptz AND r.finished_at < %(until)s::timestamptz
  AND {end}{one}{before}
ORDER BY r.finished_at DESC, r.id DESC LIMIT %(limit)s
"""


class PostgresLedger:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def consumed(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str] = ()
    ) -> Sequence[Consumed]:
        params = {
            "tenant": tenant,
            "edges": list(edges),
            "since": edges[0],
            "until": edges[-1],
            "all": not endpoints,
            "endpoints": list(endpoints),
        }
        rows = await self._database.rows(CONSUMED, params)
        return [
            Consumed(bucket, endpoint, requests, Usage(run_s, steps, units))
            for bucket, endpoint, requests, run_s, steps, units in rows
        ]

    async def measured(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        *,
        shares: Sequence[float],
        client_codes: Collection[str],
    ) -> Sequence[Measured]:
        params = {
            "tenant": tenant,
            "edges": list(edges),
            "since": edges[0],
            "until": edges[-1],
            "endpoints": list(endpoints),
            "shares": list(shares),
            "client_codes": list(client_codes),
        }
        rows = await self._database.rows(MEASURED, params)
        return [
            Measured(bucket, endpoint, requests, fine, wrong, took or (), waited or ())
            for bucket, endpoint, requests, fine, wrong, took, waited in rows
        ]

    async def ended(self, search: EndedSearch, limit: int) -> Sequence[Request]:
        params: dict[str, Any] = {
            "tenant": search.tenant,
            "endpoint": search.endpoint,
            "since": search.since,
            "until": search.until,
            "limit": limit,
        }
        if search.end in (End.CLIENT_ERROR, End.SERVER_ERROR):
            params["client_codes"] = list(search.client_codes)
        if search.request_id is not None:
            params["request_id"] = known_id(search.request_id)
        if search.before is not None:
            params["before_at"], params["before_id"] = search.before
        rows = await self._database.rows(ended_statement(search), params)
        return [stored(row).request for row in rows]


def ended_statement(search: EndedSearch) -> str:
    """One for each kind of search: a condition that a parameter turns off hides an index."""
    return _ENDED.format(
        columns=COLUMNS,
        source=SOURCE,
        end=_ENDS[search.end],
        one="" if search.request_id is None else " AND r.id = %(request_id)s::uuid",
        before=""
        if search.before is None
        else " AND (r.finished_at, r.id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)",
    )
