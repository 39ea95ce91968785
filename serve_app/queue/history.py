"""Reading and writing what is kept of requests: pages of them, and each one's own log."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.request import LogLine, Request, State
from serve_app.queue import wording
from serve_app.queue.database import Database
from serve_app.queue.rows import COLUMNS, SOURCE, known_id, stored

PAGE = f"""
SELECT {COLUMNS} FROM {SOURCE}
WHERE r.tenant = %(tenant)s
  AND r.id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND r.state = ANY(%(states)s::text[])
ORDER BY r.id DESC LIMIT %(limit)s
"""
APPEND = """
WITH grown AS (
    UPDATE requests SET events = events + 1 WHERE id = %(id)s::uuid RETURNING id, events
)
INSERT INTO events (request_id, sequence, level, message)
SELECT id, events, %(level)s, %(message)s FROM grown
"""
LINES = """
SELECT sequence, at, level, message FROM events WHERE request_id = %(id)s::uuid ORDER BY sequence
"""


class History:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, tenant: str, states: Sequence[State], before: str | None, limit: int
    ) -> Sequence[Request]:
        params = {
            "tenant": tenant,
            "states": [str(state) for state in states or State],
            "before": None if before is None else known_id(before),
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

    async def lines(self, request_id: str) -> Sequence[LogLine]:
        rows = await self._database.rows(LINES, {"id": known_id(request_id)})
        return tuple(LogLine(*row) for row in rows)
