"""Rows that name files in storage: which files they name, and what is done when one is missing."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg.rows import TupleRow

from serve_app.postgres.database import Database

AT_ONCE = 1000
_REQUEST = re.compile(r"(?:p/[^/]+/)?[drs]/([0-9a-f-]{36})/")

# The order of bytes, which is the order in which storage lists its keys.
NAMED: LiteralString = """
SELECT key, size, sha256 FROM (
    SELECT key, size, sha256 FROM artifacts
    UNION ALL
    SELECT key, size, NULL FROM uploads WHERE state = 'whole'
    UNION ALL
    SELECT key, size, sha256 FROM drafts
    UNION ALL
    SELECT key, size, digest FROM weight_files WHERE stored
    UNION ALL
    SELECT snapshot, NULL, NULL FROM requests
    WHERE snapshot IS NOT NULL AND state IN ('queued', 'running')
) AS named ORDER BY key COLLATE "C"
"""
# A snapshot's key contains its request's id, by which it is found without a search of all rows.
STILL_NAMED = """
SELECT key FROM artifacts WHERE key = ANY(%(keys)s::text[])
UNION ALL
SELECT key FROM uploads WHERE key = ANY(%(keys)s::text[]) AND state = 'whole'
UNION ALL
SELECT key FROM drafts WHERE key = ANY(%(keys)s::text[])
UNION ALL
SELECT key FROM weight_files WHERE key = ANY(%(keys)s::text[]) AND stored
UNION ALL
SELECT snapshot FROM requests
WHERE id = ANY(%(ids)s::uuid[]) AND snapshot = ANY(%(keys)s::text[])
  AND state IN ('queued', 'running')
"""
# Files that a row will name, or that Darkroom deletes itself: uploads under way, files of attempts
# that run, and files that are marked for deletion.
EXPECTED = """
SELECT key FROM artifacts WHERE key = ANY(%(keys)s::text[])
UNION ALL
SELECT key FROM uploads WHERE key = ANY(%(keys)s::text[])
UNION ALL
SELECT key FROM drafts WHERE key = ANY(%(keys)s::text[])
UNION ALL
SELECT key FROM weight_files WHERE key = ANY(%(keys)s::text[])
UNION ALL
SELECT key FROM jobs WHERE kind = 'file' AND key = ANY(%(keys)s::text[])
UNION ALL
SELECT snapshot FROM requests WHERE id = ANY(%(ids)s::uuid[]) AND snapshot IS NOT NULL
"""
RUNNING = """
SELECT id::text FROM requests WHERE id = ANY(%(ids)s::uuid[]) AND lease_until IS NOT NULL
"""
DISOWN = """
WITH artifact AS (DELETE FROM artifacts WHERE key = ANY(%(keys)s::text[])),
draft AS (DELETE FROM drafts WHERE key = ANY(%(keys)s::text[])),
lost AS (
    DELETE FROM weight_files WHERE key = ANY(%(keys)s::text[]) RETURNING digest
),
weight AS (
    UPDATE tenant_weights w SET state = 'refused', size = 0, changed_at = clock_timestamp(),
        problem = 'The file was lost in storage. Add the weights again.'
    FROM tenant_weight_files f, lost l
    WHERE f.digest = l.digest AND w.tenant = f.tenant AND w.name = f.name
),
upload AS (
    UPDATE uploads SET state = 'unwanted', due_at = now()
    WHERE key = ANY(%(keys)s::text[]) AND state = 'whole'
)
UPDATE requests SET snapshot = NULL, snapshot_step = NULL
WHERE id = ANY(%(ids)s::uuid[]) AND snapshot = ANY(%(keys)s::text[])
"""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a row names. None: the row does not have it."""

    key: str
    size: int | None
    sha256: str | None


class NamedFiles:
    """Rows of ``NAMED`` from a cursor that holds no snapshot after its transaction."""

    def __init__(self, cursor: psycopg.AsyncServerCursor[TupleRow]) -> None:
        self._cursor = cursor

    async def batch(self, most: int) -> Sequence[NamedFile]:
        """The next rows; empty at the end."""
        return [NamedFile(*row) for row in await self._cursor.fetchmany(most)]

    async def all(self) -> AsyncGenerator[NamedFile]:
        while rows := await self.batch(AT_ONCE):
            for row in rows:
                yield row


@asynccontextmanager
async def named_files(connection: psycopg.AsyncConnection) -> AsyncGenerator[NamedFiles]:
    """Open the cursor. It stays open after the end of the transaction in which it was opened, and
    the server then keeps its rows in a temporary file."""
    cursor = connection.cursor("named_files", withhold=True)
    try:
        await cursor.execute(NAMED)
        yield NamedFiles(cursor)
    finally:
        # The first call fails if the connection was lost, and the second then asks no server.
        with suppress(psycopg.OperationalError):
            await cursor.close()
        await cursor.close()


async def find_named(database: Database, keys: Sequence[str]) -> frozenset[str]:
    """Keys that a row names now."""
    return await _keys(database, STILL_NAMED, keys)


async def expected_keys(database: Database, keys: Sequence[str]) -> frozenset[str]:
    """Keys that are no orphans: a row names them, will name them, or has them deleted."""
    known = await _keys(database, EXPECTED, keys)
    rows = await database.rows(RUNNING, {"ids": _requests(keys)})
    running = {id_ for (id_,) in rows}
    return known | {key for key in keys if _request(key) in running}


async def disown(database: Database, keys: Sequence[str]) -> None:
    """Let no row name these files, which are lost.

    The files of requests are then gone as they are after their lifetime: their URLs answer 404, and
    the outcome cache does not use the outcome. Uploads and drafts are no longer listed. A
    snapshot is not resumed.
    """
    await database.rows(DISOWN, {"keys": list(keys), "ids": _requests(keys)})


async def _keys(database: Database, statement: str, keys: Sequence[str]) -> frozenset[str]:
    params = {"keys": list(keys), "ids": _requests(keys)}
    rows = await database.rows(statement, params)
    return frozenset(key for (key,) in rows)


def _requests(keys: Collection[str]) -> list[str]:
    return sorted({id_ for key in keys if (id_ := _request(key)) is not None})


def _request(key: str) -> str | None:
    """Id of the request that a key belongs to; None for an upload."""
    match = _REQUEST.match(key)
    return match[1] if match else None
