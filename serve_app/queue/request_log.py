"""Log lines of requests: appended, and read for any number of readers with one statement."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.batcher import Batcher
from serve_app.domain.request import LogLine, State
from serve_app.postgres.database import Database
from serve_app.queue.state.request_cache import RequestCache
from serve_app.queue.store import messages
from serve_app.queue.store.rows import known_id

APPEND = """
-- name: append_log
WITH given AS (
    SELECT * FROM json_to_recordset(%(lines)s::json) AS l(number integer, level text, message text)
),
grown AS (
    UPDATE requests SET events = events + %(count)s
    WHERE id = %(id)s::uuid AND events < %(most)s RETURNING id, events - %(count)s AS before
)
INSERT INTO events (request_id, sequence, level, message)
SELECT id, before + number, level, message FROM grown CROSS JOIN given
"""

MAX_LINES = 10_000
"""Lines of a request's log above which no more are appended, however much its app prints."""

AFTER = """
-- name: read_log
SELECT a.id::text, a.after, e.sequence, e.at, e.level, e.message, e.state
FROM json_to_recordset(%(asked)s::json) AS a(id uuid, after integer)
JOIN events e ON e.request_id = a.id AND e.sequence > a.after
ORDER BY e.request_id, e.sequence
"""

LogPosition = tuple[str, int]  # the request's id, and the sequence number after which to begin


class RequestLog:
    """Logs of requests. Readers that arrive while a statement is running share the next one."""

    def __init__(self, database: Database, requests: RequestCache) -> None:
        self._database = database
        self._requests = requests
        self._reads: Batcher[LogPosition, Sequence[LogLine]] = Batcher(self._read, max_batch=1000)

    async def log(self, request_id: str, *lines: tuple[str, str]) -> None:
        """Append lines: level and message of each. An unknown request is not an error."""
        rows = [
            {"number": number, "level": messages.clean(level), "message": messages.clean(message)}
            for number, (level, message) in enumerate(lines, start=1)
        ]
        params = {
            "id": known_id(request_id),
            "lines": messages.compact(rows),
            "count": len(rows),
            "most": MAX_LINES,
        }
        await self._database.rows(APPEND, params)
        self._requests.invalidate([request_id])

    async def lines(self, tenant: str, request_id: str, after: int = 0) -> Sequence[LogLine]:
        """Log lines after the sequence number ``after``."""
        request = await self._requests.get(tenant, request_id)
        return await self._reads.call((request.id, after))

    async def aclose(self) -> None:
        await self._reads.aclose()

    async def _read(self, positions: Sequence[LogPosition]) -> Sequence[Sequence[LogLine]]:
        found: dict[LogPosition, list[LogLine]] = {each: [] for each in positions}
        named = [{"id": id_, "after": after} for id_, after in found]
        rows = await self._database.rows(AFTER, {"asked": messages.compact(named)})
        for id_, after, sequence, at, level, message, state in rows:
            entered = None if state is None else State(state)
            found[id_, after].append(LogLine(sequence, at, level, message, entered))
        return [found[each] for each in positions]
