"""Reading what happened to requests, for any number of readers with one statement."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.request import LogLine, State
from serve_app.queue import wording
from serve_app.queue.batcher import Batcher
from serve_app.queue.database import Database

AFTER = """
SELECT a.id::text, a.after, e.sequence, e.at, e.level, e.message, e.state
FROM json_to_recordset(%(asked)s::json) AS a(id uuid, after integer)
JOIN events e ON e.request_id = a.id AND e.sequence > a.after
ORDER BY e.request_id, e.sequence
"""

Asked = tuple[str, int]  # the request's id, and the sequence behind which to begin


class Events:
    """A request's own log. Those who ask while a statement is under way share the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads: Batcher[Asked, Sequence[LogLine]] = Batcher(self._read, max_batch=1000)

    async def aclose(self) -> None:
        await self._reads.aclose()

    async def after(self, request_id: str, sequence: int) -> Sequence[LogLine]:
        """``request_id`` in its canonical form. Nothing is known of it: nothing is found."""
        return await self._reads.put((request_id, sequence))

    async def _read(self, asked: Sequence[Asked]) -> Sequence[Sequence[LogLine]]:
        found: dict[Asked, list[LogLine]] = {each: [] for each in asked}
        named = [{"id": id_, "after": after} for id_, after in found]
        rows = await self._database.rows(AFTER, {"asked": wording.compact(named)})
        for id_, after, sequence, at, level, message, state in rows:
            came_into = None if state is None else State(state)
            found[id_, after].append(LogLine(sequence, at, level, message, came_into))
        return [found[each] for each in asked]
