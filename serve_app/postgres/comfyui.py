"""What clients of ComfyUI ask for beside their prompts, in the database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from serve_app.domain.errors import NotFound, StorageFull, TooLarge
from serve_app.domain.executors.comfyui import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_PACKED_BYTES,
    MAX_TENANT_BYTES,
    ComfyUiFileInfo,
)
from serve_app.postgres.database import Database, Lock

KEY = "nodes"
LOCK = 0x636F6D667975
"""Advisory lock that keeps two calls at the limits apart."""

DESCRIBE: LiteralString = """
INSERT INTO comfyui_nodes AS n (key, digest, content) VALUES (%(key)s, %(digest)s, %(content)s)
ON CONFLICT (key) DO UPDATE
SET digest = excluded.digest, content = excluded.content, reported_at = now()
WHERE n.digest <> excluded.digest
"""
DIGEST: LiteralString = "SELECT digest FROM comfyui_nodes WHERE key = %(key)s"
DESCRIPTION: LiteralString = "SELECT content FROM comfyui_nodes WHERE key = %(key)s"

FILES: LiteralString = """
-- name: comfyui_files
SELECT path, octet_length(content), created_at, changed_at FROM comfyui_files
WHERE tenant = %(tenant)s ORDER BY path
"""
READ: LiteralString = """
SELECT content FROM comfyui_files WHERE tenant = %(tenant)s AND path = %(path)s
"""
_ROOM: LiteralString = """
WITH others AS (
    SELECT count(*) AS number, coalesce(sum(octet_length(content)), 0) AS bytes
    FROM comfyui_files WHERE tenant = %(tenant)s AND path <> %(path)s
),
before AS (
    SELECT content FROM comfyui_files WHERE tenant = %(tenant)s AND path = %(path)s
),
given AS (
"""
_STORE: LiteralString = """
),
stored AS (
    INSERT INTO comfyui_files (tenant, path, content)
    SELECT %(tenant)s, %(path)s, given.content FROM others, given
    WHERE number < %(most)s AND bytes + octet_length(given.content) <= %(most_bytes)s
      AND octet_length(given.content) <= %(most_of_one)s
      AND (%(overwrite)s::boolean OR NOT EXISTS (SELECT FROM before))
    ON CONFLICT (tenant, path) DO UPDATE SET content = excluded.content, changed_at = now()
    RETURNING 1
)
SELECT EXISTS (SELECT FROM stored), EXISTS (SELECT FROM before)
"""
PUT: LiteralString = _ROOM + "SELECT %(content)s::bytea AS content" + _STORE
_MERGED: LiteralString = """
    SELECT convert_to((coalesce(
        (SELECT convert_from(content, 'UTF8')::jsonb FROM before), '{}'::jsonb
    ) || %(values)s::jsonb)::text, 'UTF8') AS content
"""
MERGE: LiteralString = _ROOM + _MERGED + _STORE
MOVE: LiteralString = """
WITH source AS (
    SELECT path FROM comfyui_files WHERE tenant = %(tenant)s AND path = %(source)s
),
taken AS (
    SELECT path FROM comfyui_files WHERE tenant = %(tenant)s AND path = %(path)s
),
content AS (
    DELETE FROM comfyui_files WHERE tenant = %(tenant)s AND path = %(source)s
      AND (%(overwrite)s::boolean OR NOT EXISTS (SELECT FROM taken))
    RETURNING content, created_at
),
moved AS (
    INSERT INTO comfyui_files (tenant, path, content, created_at)
    SELECT %(tenant)s, %(path)s, content, created_at FROM content
    ON CONFLICT (tenant, path) DO UPDATE SET content = excluded.content, changed_at = now()
    RETURNING 1
)
SELECT EXISTS (SELECT FROM source), EXISTS (SELECT FROM moved)
"""
REMOVE: LiteralString = """
DELETE FROM comfyui_files WHERE tenant = %(tenant)s AND path = %(path)s RETURNING 1
"""


def check_packed(packed: bytes) -> None:
    """Raise ``TooLarge`` for a description of nodes that is not stored."""
    if len(packed) > MAX_PACKED_BYTES:
        raise TooLarge(
            f"The description of ComfyUI's nodes has {len(packed) // 2**20} MiB by gzip, above the "
            f"limit of {MAX_PACKED_BYTES // 2**20}, so clients do not get it."
        )


def no_room() -> StorageFull:
    """Error for a file above the limits of a tenant."""
    return StorageFull(
        f"There is no room for this file: a tenant keeps at most {MAX_FILES} files for ComfyUI's "
        f"page, of {MAX_FILE_BYTES // 2**20} MiB each and {MAX_TENANT_BYTES // 2**20} MiB in all. "
        "Delete some."
    )


def no_file() -> NotFound:
    return NotFound("There is no such file.")


class PostgresComfyUiBook:
    """Implements ``ComfyUiBook``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def describe(self, packed: bytes) -> None:
        check_packed(packed)
        digest = hashlib.sha256(packed).hexdigest()
        await self._database.rows(DESCRIBE, {"key": KEY, "digest": digest, "content": packed})

    async def digest(self) -> str:
        value = await self._database.value(DIGEST, {"key": KEY})
        return "" if value is None else str(value)

    async def description(self) -> bytes | None:
        value = await self._database.value(DESCRIPTION, {"key": KEY})
        return None if value is None else bytes(value)

    async def files(self, tenant: str) -> Sequence[ComfyUiFileInfo]:
        rows = await self._database.rows(FILES, {"tenant": tenant})
        return [ComfyUiFileInfo(*row) for row in rows]

    async def read(self, tenant: str, path: str) -> bytes | None:
        value = await self._database.value(READ, {"tenant": tenant, "path": path})
        return None if value is None else bytes(value)

    async def put(self, tenant: str, path: str, content: bytes, *, overwrite: bool = True) -> bool:
        return await self._store(PUT, tenant, path, {"content": content}, overwrite=overwrite)

    async def merge(self, tenant: str, path: str, values: Mapping[str, Any]) -> None:
        await self._store(MERGE, tenant, path, {"values": json.dumps(values)}, overwrite=True)

    async def _store(
        self,
        sql: LiteralString,
        tenant: str,
        path: str,
        columns: Mapping[str, Any],
        *,
        overwrite: bool,
    ) -> bool:
        limits = {
            "most": MAX_FILES,
            "most_bytes": MAX_TENANT_BYTES,
            "most_of_one": MAX_FILE_BYTES,
            "overwrite": overwrite,
        }
        values = {"tenant": tenant, "path": path, **limits, **columns}
        ((stored, was_there),) = await self._database.rows(sql, values, lock=Lock((LOCK,)))
        if not stored and (overwrite or not was_there):
            raise no_room()
        return bool(stored)

    async def move(self, tenant: str, source: str, path: str, *, overwrite: bool = True) -> bool:
        if source == path:
            if await self.read(tenant, path) is None:
                raise no_file()
            return True
        params = {"tenant": tenant, "source": source, "path": path, "overwrite": overwrite}
        ((was_there, moved),) = await self._database.rows(MOVE, params, lock=Lock((LOCK,)))
        if not was_there:
            raise no_file()
        return bool(moved)

    async def remove(self, tenant: str, path: str) -> bool:
        return bool(await self._database.rows(REMOVE, {"tenant": tenant, "path": path}))
