"""Log lines and partial results of requests: appended, and read for any number of readers with one
statement.

Readers of partial results in the process that stores them are woken. Those of other ingress
processes look again after a short time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from serve_app.domain.batcher import Batcher
from serve_app.domain.errors import Fenced
from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import MAX_PARTIALS_READ, PartialPosition, PartialResult
from serve_app.domain.request import LogLine, State
from serve_app.postgres.database import Database
from serve_app.queue.state.request_cache import RequestCache
from serve_app.queue.store import messages
from serve_app.queue.store.rows import known_id, lease_columns

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
"""Lines of a request's log above which no more are appended, however much its app prints. Those
that are longer than ``LINE`` count several times, so that a log has a size."""

LINE, MAX_LINE = 1000, 10_000
"""Characters of one line, and of the longest one: the rest of it is cut."""

_STARTED = "'Attempt ' || {0}.attempt || ' started on replica ' || {0}.replica_id || '.'"
LINES = f"""
    SELECT e.sequence, e.at, e.level, e.message, e.state FROM events e
    WHERE e.request_id = {{id}} AND e.sequence > {{after}}
    UNION ALL
    SELECT t.start_line, t.started_at, 'INFO', {_STARTED.format("t")}, 'running' FROM attempts t
    WHERE t.request_id = {{id}} AND t.start_line > {{after}}
    UNION ALL
    SELECT l.sequence, l.at, 'INFO', l.message, l.state FROM requests r CROSS JOIN LATERAL (VALUES
        (1, r.created_at, '{messages.QUEUED}', 'queued'),
        (r.start_line, r.started_at, {_STARTED.format("r")}, 'running'),
        (r.end_line, r.finished_at, '{messages.SUCCEEDED}', 'succeeded')
        ) AS l(sequence, at, message, state)
    WHERE r.id = {{id}} AND r.forgetting IS DISTINCT FROM 'done' AND l.sequence > {{after}}
      AND NOT (l.sequence = 1 AND EXISTS (
          SELECT FROM events e WHERE e.request_id = {{id}} AND e.sequence = 1))
"""
"""SQL for the lines of the request ``id`` after a sequence number: those stored in ``events``, and
those that other rows say."""
AFTER = f"""
-- name: read_log
SELECT a.id::text, a.after, l.*
FROM json_to_recordset(%(asked)s::json) AS a(id uuid, after integer)
CROSS JOIN LATERAL ({LINES.format(id="a.id", after="a.after")}) l
ORDER BY a.id, l.sequence
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
        rows: list[dict[str, Any]] = []
        count = 0
        for level, message in lines:
            text = messages.clean(message[:MAX_LINE])
            count += max(1, -(-len(text) // LINE))
            rows.append({"number": count, "level": messages.clean(level), "message": text})
        params = {
            "id": known_id(request_id),
            "lines": messages.compact(rows),
            "count": count,
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
        lines: dict[LogPosition, list[LogLine]] = {position: [] for position in positions}
        named = [{"id": id_, "after": after} for id_, after in lines]
        rows = await self._database.rows(AFTER, {"asked": messages.compact(named)})
        for id_, after, sequence, at, level, message, state in rows:
            entered = None if state is None else State(state)
            lines[id_, after].append(LogLine(sequence, at, level, message, entered))
        return [lines[position] for position in positions]


# Partial results: only the holder of the lease adds them.

KEPT_AFTER_END_S = 600.0
"""Time after the end of a request in which slow clients may read the rest."""

MAX_BYTES_READ = 4 * 2**20
"""Bytes of one answer after which no more values are added to it."""

ADD_PARTIALS = """
-- name: add_partial_results
WITH holder AS (
    SELECT r.id, r.attempt FROM requests r
    WHERE r.id = %(id)s::uuid AND r.attempt = %(attempt)s AND r.lease_nonce = %(nonce)s
      AND r.lease_until IS NOT NULL AND r.state = 'running'
),
forgotten AS (
    DELETE FROM partial_results p USING holder h
    WHERE p.request_id = h.id AND p.attempt = h.attempt AND p.number < %(first)s
),
added AS (
    INSERT INTO partial_results (request_id, attempt, number, value)
    SELECT h.id, h.attempt, x.number, x.value
    FROM holder h CROSS JOIN json_to_recordset(%(values)s::json) AS x(number integer, value text)
    WHERE x.number >= %(first)s
    ON CONFLICT DO NOTHING
)
SELECT 1 FROM holder
"""
PARTIALS_AFTER = """
-- name: read_partial_results
SELECT id::text, seen_attempt, seen_number, attempt, number, value FROM (
    SELECT a.id, a.attempt AS seen_attempt, a.number AS seen_number, p.attempt, p.number, p.value,
        sum(length(p.value)) OVER (
            PARTITION BY a.id, a.attempt, a.number ORDER BY p.attempt, p.number
        ) - length(p.value) AS before
    FROM json_to_recordset(%(asked)s::json) AS a(id uuid, attempt integer, number integer)
    CROSS JOIN LATERAL (
        SELECT p.attempt, p.number, p.value FROM partial_results p
        WHERE p.request_id = a.id AND (p.attempt, p.number) > (a.attempt, a.number)
        ORDER BY p.attempt, p.number LIMIT %(most)s
    ) p
) found
WHERE before < %(most_bytes)s
ORDER BY id, attempt, number
"""
# Also those of deleted requests, whose rows are gone.
FORGET_PARTIALS = """
-- name: forget_partial_results
DELETE FROM partial_results p WHERE NOT EXISTS (
    SELECT FROM requests r WHERE r.id = p.request_id
      AND (r.finished_at IS NULL
        OR r.finished_at > clock_timestamp() - make_interval(secs => %(kept_s)s)))
"""

_Asked = tuple[str, PartialPosition]


class PostgresPartialResults:
    """Implements ``domain.ports.PartialResults``."""

    def __init__(self, database: Database, requests: RequestCache) -> None:
        self._database = database
        self._requests = requests
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._reads: Batcher[_Asked, Sequence[PartialResult]] = Batcher(self._read, max_batch=16)

    async def add(self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int) -> None:
        rows = [
            {"number": result.number, "value": messages.clean(result.value)} for result in values
        ]
        params = {**lease_columns(lease_key), "values": messages.compact(rows), "first": first}
        if not await self._database.rows(ADD_PARTIALS, params):
            raise Fenced("Only the holder of a lease may add partial results.")
        for waiter in self._waiters.pop(lease_key.request_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def after(
        self, tenant: str, request_id: str, seen: PartialPosition
    ) -> Sequence[PartialResult]:
        request = await self._requests.get(tenant, request_id)
        return await self._reads.call((request.id, seen))

    async def wait(self, request_id: str, timeout_s: float) -> None:
        id_ = known_id(request_id)
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(id_, set())
        waiters.add(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiters.get(id_) is waiters:
                del self._waiters[id_]

    async def forget(self) -> None:
        """Delete those of requests that ended some time ago. Call it periodically."""
        await self._database.rows(FORGET_PARTIALS, {"kept_s": KEPT_AFTER_END_S})

    async def aclose(self) -> None:
        await self._reads.aclose()

    async def _read(self, lookups: Sequence[_Asked]) -> Sequence[Sequence[PartialResult]]:
        partials: dict[_Asked, list[PartialResult]] = {key: [] for key in lookups}
        named = [{"id": id_, "attempt": seen[0], "number": seen[1]} for id_, seen in partials]
        limits = {"most": MAX_PARTIALS_READ, "most_bytes": MAX_BYTES_READ}
        params = {"asked": messages.compact(named), **limits}
        for id_, *seen, attempt, number, value in await self._database.rows(PARTIALS_AFTER, params):
            partials[id_, (seen[0], seen[1])].append(PartialResult(attempt, number, value))
        return [partials[key] for key in lookups]
