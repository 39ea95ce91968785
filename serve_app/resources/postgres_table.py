"""Storage of a resource in PostgreSQL.

Each change and its entry in the audit log are one statement. The entry's action is the resource's
name and what happened, such as ``secret.set``; it never has the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from zlib import crc32

from serve_app.domain.audit.acts import Actor
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock
from serve_app.resources.declaration import Resource

Row = TypeVar("Row")


_NOTE = f"""
noted AS ({insert_audit("{key}", "changed")})
SELECT {{shown}} FROM changed
"""
LIST = """
-- name: list_{table}
SELECT {shown} FROM {table} WHERE {owner} = %(owner)s ORDER BY {key}
"""
VALUES = """
-- name: values_of_{table}
SELECT {owner}, {key}, {column} FROM {table}
WHERE {owner} = ANY(%(owners)s::text[]) AND {key} = ANY(%(keys)s::text[])
"""
PUT = """
-- name: put_{table}
WITH changed AS (
    INSERT INTO {table} ({owner}, {key}, {columns}, changed_by)
    SELECT %(owner)s, %(key)s, {values}, %(actor)s
    WHERE (SELECT count(*) FROM {table} WHERE {owner} = %(owner)s AND {key} <> %(key)s) < %(most)s
    ON CONFLICT ({owner}, {key}) DO UPDATE
    SET {replaced}, changed_at = now(), changed_by = excluded.changed_by
    RETURNING *
),"""
DELETE = """
-- name: delete_{table}
WITH changed AS (
    DELETE FROM {table} WHERE {owner} = %(owner)s AND {key} = %(key)s RETURNING *
),"""


class PostgresTable(Generic[Row]):
    """Implements ``Table``."""

    def __init__(self, database: Database, resource: Resource[Row]) -> None:
        self._database = database
        self._resource = resource
        self._lock = Lock((crc32(resource.table.encode()),))
        self._names = {
            "table": resource.table,
            "owner": resource.owner_column,
            "key": resource.key,
            "shown": ", ".join(resource.fields),
        }

    async def list(self, owner: str) -> Sequence[Row]:
        rows = await self._database.rows(LIST.format(**self._names), {"owner": owner})
        return [self._resource.model(*row) for row in rows]

    async def values(
        self, column: str, owners: Sequence[str], keys: Sequence[str]
    ) -> Mapping[tuple[str, str], Any]:
        sql = VALUES.format(**self._names, column=column)
        rows = await self._database.rows(sql, {"owners": list(owners), "keys": list(keys)})
        return {(owner, key): value for owner, key, value in rows}

    async def put(
        self, owner: str, key: str, columns: Mapping[str, Any], actor: Actor
    ) -> Row | None:
        sql = (PUT + _NOTE).format(
            **self._names,
            columns=", ".join(columns),
            values=", ".join(f"%(new_{name})s" for name in columns),
            replaced=", ".join(f"{name} = excluded.{name}" for name in columns),
        )
        params = {
            **{f"new_{name}": value for name, value in columns.items()},
            **audit_params(actor, f"{self._resource.name}.set", tenant=owner),
            "owner": owner,
            "key": key,
            "most": self._resource.max_per_owner,
        }
        # The lock keeps two calls at the limit apart.
        row = await self._database.row(sql, params, lock=self._lock)
        return self._resource.model(*row) if row else None

    async def delete(self, owner: str, key: str, actor: Actor) -> bool:
        noted = audit_params(actor, f"{self._resource.name}.delete", tenant=owner)
        params = {"owner": owner, "key": key, **noted}
        return bool(await self._database.rows((DELETE + _NOTE).format(**self._names), params))


class PostgresTables:
    """Implements ``Tables``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, resource: Resource[Row]) -> PostgresTable[Row]:
        return PostgresTable(self._database, resource)
