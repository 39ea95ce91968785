"""Entries of the catalogue that operators have added, and the code of their apps, in the database:
all ingress replicas serve the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from serve_app.catalog.catalog import StoredEntry
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import NotFound
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store.messages import compact

MAX_COUNTED = 1000

# The order of a table is not defined, and a row that was deleted leaves no trace of its time.
VERSION = """
-- name: catalog_version
SELECT coalesce(md5(string_agg(endpoint || ' ' || changed_at, ' ' ORDER BY endpoint)), '')
FROM catalog_entries
"""
READ = """
-- name: read_catalog_entries
SELECT endpoint, entry, changed_at, changed_by FROM catalog_entries ORDER BY endpoint
"""
_PUT = f"""
WITH stored AS (
    INSERT INTO catalog_entries (endpoint, entry, changed_by)
    VALUES (%(endpoint)s, %(entry)s::json, %(actor)s)
    ON CONFLICT (endpoint) {{existing}}
    RETURNING endpoint, entry
)
{insert_audit("endpoint", "stored", "json_build_object('entry', entry)")}
RETURNING id
"""
PUT = _PUT.format(
    existing="""DO UPDATE
    SET entry = excluded.entry, changed_at = clock_timestamp(), changed_by = excluded.changed_by"""
)
ADD = _PUT.format(existing="DO NOTHING")
REMOVE = f"""
WITH unfinished AS (
    SELECT count(*) AS number FROM (
        SELECT FROM requests WHERE endpoint = %(endpoint)s
            AND state IN ('queued', 'following', 'running') LIMIT {MAX_COUNTED}
    ) AS counted
),
removed AS (
    DELETE FROM catalog_entries
    WHERE endpoint = %(endpoint)s AND (%(force)s OR (SELECT number FROM unfinished) = 0)
    RETURNING endpoint, entry
),
noted AS ({insert_audit("endpoint", "removed", "json_build_object('entry', entry)")})
SELECT (SELECT number FROM unfinished), EXISTS (SELECT FROM removed)
"""


@dataclass(frozen=True, slots=True)
class KeptEntry(StoredEntry):
    """Stored entry with the time of its last change, and the id of the key that made it."""

    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class EntryRemoval:
    """Result of a removal. ``unfinished``: queued and running requests of the endpoint, at most
    ``MAX_COUNTED``."""

    removed: bool
    unfinished: int


class CatalogEntries(Protocol):
    """Stored entries. Each change and its audit entry are written in one transaction."""

    async def version(self) -> str:
        """Text that differs after each change."""
        ...

    async def all(self) -> Sequence[KeptEntry]:
        """All entries, by their ids."""
        ...

    async def put(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> None:
        """Add an entry, or replace the one with this id."""
        ...

    async def add(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> bool:
        """Add an entry. False: one with this id is stored already, and stays."""
        ...

    async def remove(self, endpoint: str, actor: Actor, *, force: bool) -> EntryRemoval:
        """Remove an entry. Without ``force``, not while it has unfinished requests."""
        ...


class PostgresCatalogEntries:
    """Implements ``CatalogEntries``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version(self) -> str:
        version = await self._database.value(VERSION)
        return str(version)

    async def all(self) -> Sequence[KeptEntry]:
        return [KeptEntry(*row) for row in await self._database.rows(READ)]

    async def put(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> None:
        params = {"endpoint": endpoint, "entry": compact(entry), **audit_params(actor, "model.add")}
        await self._database.rows(PUT, params)

    async def add(self, endpoint: str, entry: Mapping[str, Any], actor: Actor) -> bool:
        params = {"endpoint": endpoint, "entry": compact(entry), **audit_params(actor, "model.add")}
        return bool(await self._database.rows(ADD, params))

    async def remove(self, endpoint: str, actor: Actor, *, force: bool) -> EntryRemoval:
        params = {"endpoint": endpoint, "force": force, **audit_params(actor, "model.remove")}
        ((unfinished, removed),) = await self._database.rows(REMOVE, params)
        return EntryRemoval(removed, unfinished)


# Code of apps. It is stored once for each digest, and entries name it.


def no_bundle(digest: str) -> NotFound:
    return NotFound(
        f"The code {digest[:12]} of an app is not stored here. Deploy the app again with "
        "`darkroom deploy`."
    )


KEPT_UNUSED_DAYS = 1
"""Days for which a bundle that no entry names is kept: its entries come after it."""

STORE_BUNDLE = f"""
WITH unused AS (
    DELETE FROM app_bundles b
    WHERE b.created_at < clock_timestamp() - %(days)s * interval '1 day' AND b.digest <> %(digest)s
      AND NOT EXISTS (
        SELECT FROM catalog_entries e
        WHERE e.entry::jsonb -> 'options' -> 'app' ->> 'bundle' = b.digest)
),
stored AS (
    INSERT INTO app_bundles (digest, content, created_by)
    VALUES (%(digest)s, %(content)s, %(actor)s)
    ON CONFLICT (digest) DO UPDATE SET created_at = clock_timestamp() RETURNING digest
)
{insert_audit("digest", "stored")}
"""
READ_BUNDLE = "SELECT content FROM app_bundles WHERE digest = %(digest)s"


class AppBundles(Protocol):
    """Zip files with the code of apps, by their SHA-256."""

    async def store(self, content: bytes, actor: Actor) -> str:
        """Store a bundle, and remove old ones that no entry names. Returns its digest."""
        ...

    async def read(self, digest: str) -> bytes:
        """Content of a bundle. ``NotFound`` if there is none with this digest."""
        ...


class PostgresAppBundles:
    """Implements ``AppBundles``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, content: bytes, actor: Actor) -> str:
        digest = hashlib.sha256(content).hexdigest()
        params = {
            "digest": digest,
            "content": content,
            "days": KEPT_UNUSED_DAYS,
            **audit_params(actor, "app.store", bytes=len(content)),
        }
        await self._database.rows(STORE_BUNDLE, params)
        return digest

    async def read(self, digest: str) -> bytes:
        bundle = await self._database.value(READ_BUNDLE, {"digest": digest})
        if bundle is None:
            raise no_bundle(digest)
        return bytes(bundle)
