"""Progress of batches: PostgreSQL behind the port ``BatchWork``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serve_app.domain.batches.batch import (
    BatchError,
    BatchLine,
    EndedLine,
    LineResult,
    StoredBatch,
)
from serve_app.postgres.database import Database
from serve_app.queue.batches.rows import BATCH, batch_of
from serve_app.queue.store import messages

MAX_ERRORS = 100
"""Most errors of a refused file that are kept."""
LINES_AT_ONCE = 1000  # deleted by one statement
MAX_STATEMENTS = 500  # in one call

_LINE = "l.line, l.custom_id, l.start, l.size, l.request_id::text"
_OF_BATCH = "l.batch_id = %(batch)s"

ACTIVE = f"""
SELECT {BATCH} FROM batches b WHERE b.ended_at IS NULL ORDER BY b.created_at, b.id LIMIT %(most)s
"""
FIND = f"SELECT {BATCH} FROM batches b WHERE b.id = %(batch)s"
# Nothing of a batch that is being validated was sent, so it ends at once.
EXPIRE = """
-- name: expire_batches
UPDATE batches SET stop = 'expired',
    status = CASE status WHEN 'validating' THEN 'expired' ELSE status END,
    ended_at = CASE status WHEN 'validating' THEN now() END
WHERE ended_at IS NULL AND stop IS NULL AND expires_at <= now()
  AND status IN ('validating', 'in_progress')
"""
ADD_LINES = """
-- name: add_batch_lines
WITH open AS (
    SELECT id FROM batches WHERE id = %(batch)s AND status = 'validating' FOR SHARE
)
INSERT INTO batch_lines (batch_id, line, custom_id, start, size)
SELECT o.id, x.line, x.custom_id, x.start, x.size
FROM open o CROSS JOIN json_to_recordset(%(lines)s::json) AS x(
    line integer, custom_id text, start bigint, size integer)
ON CONFLICT DO NOTHING
"""
BEGIN = """
-- name: begin_batch
UPDATE batches SET status = 'in_progress', total = %(total)s, in_progress_at = now()
WHERE id = %(batch)s AND status = 'validating' RETURNING id
"""
REFUSE = """
-- name: refuse_batch
WITH refused AS (
    UPDATE batches SET status = 'failed', errors = %(errors)s::json, ended_at = now()
    WHERE id = %(batch)s AND status = 'validating' RETURNING id
)
DELETE FROM batch_lines l USING refused r WHERE l.batch_id = r.id
"""
IN_FLIGHT = f"""
SELECT count(*) FROM batch_lines l WHERE {_OF_BATCH} AND l.state IN ('sending', 'sent')
"""
UNSENT = f"""
SELECT {_LINE} FROM batch_lines l
WHERE {_OF_BATCH} AND l.state = 'sending' ORDER BY l.line LIMIT %(most)s
"""
# The batch is locked: a cancel waits, so it finds all lines that were taken before it.
TAKE = f"""
-- name: take_batch_lines
WITH open AS (
    SELECT id FROM batches
    WHERE id = %(batch)s AND status = 'in_progress' AND stop IS NULL FOR SHARE
),
waiting AS (
    SELECT l.line FROM batch_lines l
    WHERE l.batch_id = (SELECT id FROM open) AND l.state = 'waiting'
    ORDER BY l.line LIMIT cardinality(%(ids)s::uuid[]) FOR UPDATE SKIP LOCKED
),
numbered AS (SELECT line, row_number() OVER (ORDER BY line) AS n FROM waiting)
UPDATE batch_lines l
SET state = 'sending', request_id = coalesce(l.request_id, (%(ids)s::uuid[])[w.n])
FROM numbered w WHERE {_OF_BATCH} AND l.line = w.line
RETURNING {_LINE}
"""
MOVE = f"""
-- name: move_batch_lines
UPDATE batch_lines l SET state = %(state)s
WHERE {_OF_BATCH} AND l.line = ANY(%(lines)s::integer[]) AND l.state = 'sending'
"""
_SENT = f"""
SELECT {_LINE} FROM batch_lines l LEFT JOIN requests r ON r.id = l.request_id
WHERE {_OF_BATCH} AND l.state = 'sent' AND {{which}} ORDER BY l.line LIMIT %(most)s
"""
ENDED = _SENT.format(which="(r.id IS NULL OR r.outcome IS NOT NULL)")
RUNNING = _SENT.format(which="r.outcome IS NULL AND r.id IS NOT NULL")
_COUNT = """
UPDATE batches b
SET completed = b.completed + c.good, failed = b.failed + c.bad
FROM (SELECT count(*) FILTER (WHERE state = 'succeeded') AS good,
             count(*) FILTER (WHERE state = 'failed') AS bad FROM settled) c
WHERE b.id = %(batch)s RETURNING c.good + c.bad
"""
# A line that another worker has settled meanwhile has another state by then, and is not counted. A
# result is a string within JSON: an app's output may have a NUL, and PostgreSQL cannot look into
# JSON that has one (see attempts/ending.py).
SETTLE = f"""
-- name: settle_batch_lines
WITH given AS (
    SELECT * FROM json_to_recordset(%(results)s::json) AS x(
        line integer, succeeded boolean, result text)
),
settled AS (
    UPDATE batch_lines l
    SET state = CASE WHEN g.succeeded THEN 'succeeded' ELSE 'failed' END, result = g.result::json
    FROM given g
    WHERE {_OF_BATCH} AND l.line = g.line AND l.state IN ('sending', 'sent')
    RETURNING l.state
)
{_COUNT}"""
DROP_WAITING = f"""
-- name: drop_batch_lines
WITH next AS (
    SELECT l.line FROM batch_lines l
    WHERE {_OF_BATCH} AND l.state = 'waiting' ORDER BY l.line LIMIT %(most)s FOR UPDATE
),
settled AS (
    UPDATE batch_lines l SET state = 'failed', request_id = NULL, result = %(result)s::json
    FROM next n WHERE {_OF_BATCH} AND l.line = n.line AND l.state = 'waiting'
    RETURNING l.state
)
{_COUNT}"""
FINALIZE = """
-- name: finalize_batch
UPDATE batches SET status = 'finalizing', finalizing_at = now()
WHERE id = %(batch)s AND status IN ('in_progress', 'cancelling') AND completed + failed = total
RETURNING id
"""
RESULTS = f"""
SELECT l.custom_id, l.request_id::text, l.line, l.state = 'succeeded', l.result
FROM batch_lines l
WHERE {_OF_BATCH} AND l.state = %(state)s AND l.line > %(after)s ORDER BY l.line LIMIT %(most)s
"""
FINISH = """
-- name: finish_batch
WITH ended AS (
    UPDATE batches SET status = coalesce(stop, 'completed'), ended_at = now(),
        output_file = %(output)s, error_file = %(error)s
    WHERE id = %(batch)s AND status = 'finalizing' RETURNING id
),
gone AS (DELETE FROM batch_lines l USING ended e WHERE l.batch_id = e.id)
SELECT id FROM ended
"""
# A batch that was stopped while it was validated leaves those that were read. One index step for
# each batch that has lines: there are far fewer of them than batches.
FORGET_LINES = """
-- name: forget_batch_lines
WITH RECURSIVE written AS (
    (SELECT batch_id FROM batch_lines ORDER BY batch_id LIMIT 1)
    UNION ALL
    SELECT (SELECT l.batch_id FROM batch_lines l WHERE l.batch_id > w.batch_id
            ORDER BY l.batch_id LIMIT 1)
    FROM written w WHERE w.batch_id IS NOT NULL
)
DELETE FROM batch_lines WHERE ctid = ANY(ARRAY(
    SELECT l.ctid FROM written w JOIN batches b ON b.id = w.batch_id
    JOIN batch_lines l ON l.batch_id = b.id
    WHERE b.ended_at IS NOT NULL LIMIT %(most)s FOR UPDATE OF l SKIP LOCKED))
RETURNING 1
"""


class PostgresBatchWork:
    """Implements ``BatchWork``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def active(self, most: int) -> Sequence[StoredBatch]:
        return [batch_of(row) for row in await self._database.rows(ACTIVE, {"most": most})]

    async def find(self, batch: str) -> StoredBatch | None:
        row = await self._database.row(FIND, {"batch": batch})
        return batch_of(row) if row else None

    async def expire(self) -> None:
        await self._database.rows(EXPIRE)

    async def add_lines(self, batch: str, lines: Sequence[BatchLine]) -> None:
        rows = [
            {"line": x.line, "custom_id": x.custom_id, "start": x.start, "size": x.size}
            for x in lines
        ]
        params = {"batch": batch, "lines": messages.compact(rows)}
        await self._database.rows(ADD_LINES, params)

    async def begin(self, batch: str, total: int) -> bool:
        return bool(await self._database.rows(BEGIN, {"batch": batch, "total": total}))

    async def refuse(self, batch: str, errors: Sequence[BatchError]) -> None:
        shown = messages.compact([asdict(error) for error in errors[:MAX_ERRORS]])
        await self._database.rows(REFUSE, {"batch": batch, "errors": shown})

    async def in_flight(self, batch: str) -> int:
        count = await self._database.value(IN_FLIGHT, {"batch": batch})
        return int(count)

    async def unsent(self, batch: str, most: int) -> Sequence[BatchLine]:
        return await self._lines(UNSENT, batch, most)

    async def take(self, batch: str, request_ids: Sequence[str]) -> Sequence[BatchLine]:
        rows = await self._database.rows(TAKE, {"batch": batch, "ids": [*request_ids]})
        return sorted((BatchLine(*row) for row in rows), key=lambda batch_line: batch_line.line)

    async def mark_sent(self, batch: str, lines: Sequence[int]) -> None:
        await self._move(batch, lines, "sent")

    async def put_back(self, batch: str, lines: Sequence[int]) -> None:
        await self._move(batch, lines, "waiting")

    async def ended_lines(self, batch: str, most: int) -> Sequence[BatchLine]:
        return await self._lines(ENDED, batch, most)

    async def running(self, batch: str, most: int) -> Sequence[BatchLine]:
        return await self._lines(RUNNING, batch, most)

    async def settle(self, batch: str, results: Sequence[LineResult]) -> None:
        rows = [
            {"line": result.line, "succeeded": result.succeeded, "result": _encode_result(result)}
            for result in results
        ]
        params = {"batch": batch, "results": messages.compact(rows)}
        await self._database.rows(SETTLE, params)

    async def drop_waiting(self, batch: str, most: int, error: Mapping[str, Any]) -> int:
        result = _encode_result(LineResult(0, succeeded=False, error=error))
        params = {"batch": batch, "most": most, "result": result}
        value = await self._database.value(DROP_WAITING, params)
        return 0 if value is None else int(value)

    async def finalize(self, batch: str) -> bool:
        return bool(await self._database.rows(FINALIZE, {"batch": batch}))

    async def results(
        self, batch: str, *, succeeded: bool, after: int, most: int
    ) -> Sequence[EndedLine]:
        state = "succeeded" if succeeded else "failed"
        params = {"batch": batch, "state": state, "after": after, "most": most}
        return [
            EndedLine(custom_id, request_id, LineResult(line, done, **result))
            for custom_id, request_id, line, done, result in await self._database.rows(
                RESULTS, params
            )
        ]

    async def finish(self, batch: str, output_file: str | None, error_file: str | None) -> bool:
        params = {"batch": batch, "output": output_file, "error": error_file}
        return bool(await self._database.rows(FINISH, params))

    async def forget_lines(self) -> None:
        for _ in range(MAX_STATEMENTS):
            rows = await self._database.rows(FORGET_LINES, {"most": LINES_AT_ONCE})
            if len(rows) < LINES_AT_ONCE:
                return

    async def _lines(self, statement: str, batch: str, most: int) -> Sequence[BatchLine]:
        rows = await self._database.rows(statement, {"batch": batch, "most": most})
        return [BatchLine(*row) for row in rows]

    async def _move(self, batch: str, lines: Sequence[int], state: str) -> None:
        if lines:
            params = {"batch": batch, "lines": [*lines], "state": state}
            await self._database.rows(MOVE, params)


def _encode_result(result: LineResult) -> str:
    """JSON of a result, as ``results`` reads it back."""
    return messages.compact(
        {"response": result.response, "error": result.error, "inlined": [*result.inlined]}
    )
