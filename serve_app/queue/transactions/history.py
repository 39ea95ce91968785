"""Pages of stored requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from serve_app.domain.request import Request, RequestFilter, State
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.store.rows import COLUMNS, FOLLOWING, SOURCE, known_id, request_from_row

_ENDED = "r.finished_at IS NOT NULL"
_UNSUCCESSFUL = "r.state IN ('failed', 'cancelled', 'expired') AND"
_BOUNDS = """
    r.id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND r.id >= coalesce(%(first)s::uuid, '00000000-0000-0000-0000-000000000000')
    AND r.state = ANY(%(states)s::text[])
    AND r.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
    AND r.created_at < coalesce(%(until)s::timestamptz, 'infinity')
"""
# `tenant` is written as a range, and is part of the order, because of the planner: with an equality
# it may read all tenants' rows backwards, to the last for a tenant that has few (measured: 0.9 s of
# a million).
_OF_TENANT = "r.tenant >= %(tenant)s AND r.tenant <= %(tenant)s AND"
_WHO = "SELECT %(tenant)s::text AS tenant"
# All tenants with ended requests, each found by one index step.
_ALL_WHO = f"""
    (SELECT r.tenant FROM requests r WHERE {_ENDED} ORDER BY r.tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT r.tenant FROM requests r WHERE {_ENDED} AND r.tenant > w.tenant
            ORDER BY r.tenant LIMIT 1)
    FROM who w WHERE w.tenant IS NOT NULL
"""
# Page of some endpoints, which may have few requests among many. Ended ones are found by their
# index (hence the range, as above); the others, no more than the queue, are read completely.
_OF_ENDPOINT = """
WITH RECURSIVE who AS ({who}),
live AS MATERIALIZED ({live}),
page AS MATERIALIZED (
    SELECT x.id FROM (
        SELECT e.id FROM who w CROSS JOIN unnest(%(endpoints)s::text[]) AS n(endpoint)
        CROSS JOIN LATERAL (
            SELECT r.id FROM requests r
            WHERE r.tenant = w.tenant AND {ended} AND {bounds}
                AND r.endpoint >= n.endpoint AND r.endpoint <= n.endpoint
            ORDER BY r.endpoint, r.id DESC LIMIT %(limit)s) e
        UNION ALL
        SELECT id FROM live) x
    ORDER BY x.id DESC LIMIT %(limit)s
)
SELECT {columns} FROM {source} WHERE r.id IN (SELECT id FROM page) ORDER BY r.id DESC
"""


_LIVE = """
    SELECT r.id FROM {rows} r
    WHERE r.state = '{state}' AND r.endpoint = ANY(%(endpoints)s::text[]) AND {of_tenant} {bounds}
"""
"""Live requests of one state: each state has an index of its own, which a statement about several
would not use.
"""
# Those that run or follow another request have no index by tenant that fits. `OFFSET 0` hides all
# other conditions from the planner: until PostgreSQL has looked at the table, it may read all rows
# of the tenant.
_LIVE_ROWS = {
    State.QUEUED: "requests",
    State.RUNNING: f"""(SELECT * FROM requests WHERE state = '{State.RUNNING}'
        AND endpoint = ANY(%(endpoints)s::text[]) OFFSET 0)""",
    FOLLOWING: f"(SELECT * FROM requests WHERE state = '{FOLLOWING}' OFFSET 0)",
}


def page_statement(*, of_tenant: bool, of_endpoint: bool, unsuccessful: bool) -> str:
    """Statement for one kind of page; separate statements, so that each uses its index.
    ``unsuccessful``: only failed, cancelled and expired requests.
    """
    whose = _OF_TENANT if of_tenant else ""
    if of_endpoint and not unsuccessful:
        live = (
            _LIVE.format(rows=rows, state=state, of_tenant=whose, bounds=_BOUNDS)
            for state, rows in _LIVE_ROWS.items()
        )
        return _OF_ENDPOINT.format(
            who=_WHO if of_tenant else _ALL_WHO,
            live="UNION ALL".join(live),
            bounds=_BOUNDS,
            ended=_ENDED,
            columns=COLUMNS,
            source=SOURCE,
        )
    return f"""
SELECT {COLUMNS} FROM {SOURCE}
WHERE {whose} {_UNSUCCESSFUL if unsuccessful else ""} {_BOUNDS}
    AND (%(endpoints)s::text[] IS NULL OR r.endpoint = ANY(%(endpoints)s::text[]))
ORDER BY {"r.tenant, " if of_tenant else ""}r.id DESC LIMIT %(limit)s
"""


# Each endpoint's ended requests are counted in their index alone.
DAYS = f"""
WITH RECURSIVE names AS (
    (SELECT r.endpoint FROM requests r
     WHERE r.tenant = %(tenant)s AND {_ENDED} ORDER BY r.endpoint LIMIT 1)
    UNION ALL
    SELECT (SELECT r.endpoint FROM requests r WHERE r.tenant = %(tenant)s AND {_ENDED}
            AND r.endpoint > n.endpoint ORDER BY r.endpoint LIMIT 1)
    FROM names n WHERE n.endpoint IS NOT NULL
),
chosen AS MATERIALIZED (
    SELECT endpoint FROM names WHERE endpoint IS NOT NULL
        AND (%(endpoints)s::text[] IS NULL OR endpoint = ANY(%(endpoints)s::text[]))
)
SELECT d.n, (SELECT coalesce(sum(c.counted), 0) FROM chosen e CROSS JOIN LATERAL (
    SELECT count(*) AS counted FROM requests r
    WHERE r.tenant = %(tenant)s AND r.endpoint = e.endpoint AND {_ENDED}
        AND r.state = ANY(%(states)s) AND r.id >= d.first AND r.id < d.last) c)
FROM unnest(%(first)s::uuid[], %(last)s::uuid[]) WITH ORDINALITY AS d(first, last, n) ORDER BY d.n
"""

SHORTENED = """
-- name: shortened_inputs
SELECT id::text FROM requests
WHERE id = ANY(%(ids)s::uuid[]) AND tenant = %(tenant)s AND shown IS NOT NULL
"""
WHOLE_INPUT = """
-- name: whole_input
SELECT input FROM requests WHERE id = %(id)s::uuid AND tenant = %(tenant)s
"""

UNSUCCESSFUL = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})
CLOCK_SKEW = timedelta(days=1)
"""Tolerance for clock differences: ids begin with the time by the clock of the ingress that made
them, not the database's. They only narrow down the search.
"""


class History:
    """Read pages of requests."""

    def __init__(self, reads: FairReads) -> None:
        self._reads = reads

    async def page(
        self,
        tenant: str | None,
        *,
        states: Sequence[State] = (),
        endpoints: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        bounds = bounds_of(
            RequestFilter(tenant, None, False, states, endpoints, since, until, before)  # noqa: FBT003
        )
        statement = page_statement(
            of_tenant=tenant is not None,
            of_endpoint=bool(endpoints),
            unsuccessful=bool(states) and UNSUCCESSFUL.issuperset(states),
        )
        params = {**bounds, "tenant": tenant, "limit": limit}
        rows = await self._reads.rows(tenant, statement, params)
        return [request_from_row(row).request for row in rows]

    async def shortened_inputs(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        rows = await self._reads.rows(tenant, SHORTENED, {"tenant": tenant, "ids": [*request_ids]})
        return frozenset(str(id_) for (id_,) in rows)

    async def whole_input(self, tenant: str, request_id: str) -> Mapping[str, Any] | None:
        params = {"tenant": tenant, "id": request_id}
        rows = await self._reads.rows(tenant, WHOLE_INPUT, params)
        return next((input_ for (input_,) in rows), None)

    async def count_by_day(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        states: Sequence[State] = (),
    ) -> Sequence[int]:
        """Numbers of ended requests between each edge and the next."""
        ids = [first_id(edge) for edge in edges]
        params = {
            "tenant": tenant,
            "first": ids[:-1],
            "last": ids[1:],
            "endpoints": [*endpoints] or None,
            "states": [*(states or State)],
        }
        rows = await self._reads.rows(tenant, DAYS, params)
        return [int(count) for _, count in rows]


def bounds_of(request_filter: RequestFilter) -> dict[str, object]:
    """Parameters of a statement about pages, without the tenant and the limit."""
    last = (
        None
        if request_filter.until is None
        else first_id(_shift_time(request_filter.until, CLOCK_SKEW))
    )
    ends = [end for end in (last, request_filter.before and known_id(request_filter.before)) if end]
    following = not request_filter.states or State.QUEUED in request_filter.states
    return {
        "states": [*(request_filter.states or State), *((FOLLOWING,) if following else ())],
        "endpoints": [*request_filter.endpoints] or None,
        "since": request_filter.since,
        "until": request_filter.until,
        "first": None
        if request_filter.since is None
        else first_id(_shift_time(request_filter.since, -CLOCK_SKEW)),
        "before": min(ends, default=None),
    }


def _shift_time(at: datetime, by: timedelta) -> datetime:
    """The time, moved as far as Python's calendar goes."""
    try:
        return at + by
    except OverflowError:
        return at


def first_id(at: datetime) -> str:
    """An id that is not after the id of any request submitted at ``at`` or later."""
    milliseconds = min(max(0, int(at.timestamp() * 1000)), (1 << 48) - 1)
    return str(UUID(int=milliseconds << 80))
