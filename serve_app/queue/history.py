"""Reading and writing what is kept of requests: pages of them, lines into their logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from serve_app.domain.request import Request, State
from serve_app.queue import wording
from serve_app.queue.database import Database
from serve_app.queue.rows import COLUMNS, FOLLOWING, SOURCE, known_id, stored

# `tenant` is said as a range, and is part of the order, because of the planner: with an equation it
# may read all tenants' rows backwards, to the last for a tenant that has few (measured: 0.9 s of a
# million).
PAGE = f"""
SELECT {COLUMNS} FROM {SOURCE}
WHERE r.tenant >= %(tenant)s AND r.tenant <= %(tenant)s
  AND r.id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND r.id >= coalesce(%(first)s::uuid, '00000000-0000-0000-0000-000000000000')
  AND r.state = ANY(%(states)s::text[])
  AND r.endpoint = coalesce(%(endpoint)s, r.endpoint)
  AND r.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
  AND r.created_at < coalesce(%(until)s::timestamptz, 'infinity')
  AND r.deleted_at IS NULL
ORDER BY r.tenant, r.id DESC LIMIT %(limit)s
"""
APPEND = """
WITH grown AS (
    UPDATE requests SET events = events + 1 WHERE id = %(id)s::uuid RETURNING id, events
)
INSERT INTO events (request_id, sequence, level, message)
SELECT id, events, %(level)s, %(message)s FROM grown
"""


SLACK = timedelta(days=1)
"""Ids begin with the time by the clock of the ingress that made them, which is not the database's.
They only narrow down where to look."""


class History:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        tenant: str,
        states: Sequence[State],
        endpoint: str | None,
        since: datetime | None,
        until: datetime | None,
        before: str | None,
        limit: int,
    ) -> Sequence[Request]:
        last = None if until is None else first_id(until + SLACK)
        ends = [each for each in (last, before and known_id(before)) if each]
        params = {
            "tenant": tenant,
            "states": [
                *(states or State),
                *((FOLLOWING,) if not states or State.QUEUED in states else ()),
            ],
            "endpoint": endpoint,
            "since": since,
            "until": until,
            "first": None if since is None else first_id(since - SLACK),
            "before": min(ends, default=None),
            "limit": limit,
        }
        return [stored(row).request for row in await self._database.rows(PAGE, params)]

    async def append(self, request_id: str, level: str, message: str) -> None:
        params = {
            "id": known_id(request_id),
            "level": wording.clean(level),
            "message": wording.clean(message),
        }
        await self._database.rows(APPEND, params)


def first_id(at: datetime) -> str:
    """Not after the id of any request that was submitted at ``at`` or later."""
    milliseconds = min(max(0, int(at.timestamp() * 1000)), (1 << 48) - 1)
    return str(UUID(int=milliseconds << 80))
