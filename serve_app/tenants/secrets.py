"""Secrets by name, of tenants and of the installation, encrypted in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, Protocol

from serve_app.domain.audit.acts import Actor
from serve_app.domain.executors.secrets import INSTALLATION, Secret
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database, Lock
from serve_app.tenants.seal import Seal

PURPOSE = b"secrets by name"
MAX_SECRETS = 100  # of one owner
KNOWN_FOR_S = 5.0
MAX_KNOWN = 1000  # owners
LOCK = 0x5EC2E75
"""Advisory lock that keeps two calls at the limit apart."""

LIST: LiteralString = """
-- name: secrets
SELECT name, changed_at, changed_by FROM secrets WHERE owner = %(owner)s ORDER BY name
"""
READ: LiteralString = """
-- name: secret_values
SELECT name, owner, sealed FROM secrets
WHERE owner = ANY(%(owners)s::text[]) AND name = ANY(%(names)s::text[])
ORDER BY name, owner DESC
"""
PUT: LiteralString = """
WITH stored AS (
    INSERT INTO secrets (owner, name, sealed, changed_by)
    SELECT %(owner)s, %(name)s, %(sealed)s::bytea, %(actor)s
    WHERE (SELECT count(*) FROM secrets WHERE owner = %(owner)s AND name <> %(name)s) < %(most)s
    ON CONFLICT (owner, name) DO UPDATE
    SET sealed = excluded.sealed, changed_at = now(), changed_by = excluded.changed_by
    RETURNING owner, name
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'secret.set', name, json_build_object('tenant', owner)
    FROM stored
)
SELECT 1 FROM stored
"""
REMOVE: LiteralString = """
WITH removed AS (
    DELETE FROM secrets WHERE owner = %(owner)s AND name = %(name)s RETURNING owner, name
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'secret.remove', name, json_build_object('tenant', owner)
    FROM removed
)
SELECT 1 FROM removed
"""


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """A secret without its value."""

    name: str
    changed_at: datetime
    changed_by: str  # id of an API key


class SecretBook(Protocol):
    """Secrets by owner and name. An owner is a tenant, or ``INSTALLATION``. Each change and its
    audit entry are written in one transaction, never with the value."""

    async def list(self, owner: str) -> Sequence[KeptSecret]:
        """Secrets of an owner, by name."""
        ...

    async def read(self, tenant: str, names: Sequence[str]) -> Sequence[Secret]:
        """Secrets of these names that the tenant or the installation has. Of one name, the tenant's
        is first. ``Unavailable``: one cannot be decrypted."""
        ...

    async def put(self, owner: str, name: str, value: str, actor: Actor) -> bool:
        """Set a secret. False: the owner has ``MAX_SECRETS`` others."""
        ...

    async def remove(self, owner: str, name: str, actor: Actor) -> bool:
        """Remove a secret. False: there is none."""
        ...


class PostgresSecrets:
    """Implements ``SecretBook``."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._seal = Seal(secret, PURPOSE)

    async def list(self, owner: str) -> Sequence[KeptSecret]:
        rows = await self._database.rows(LIST, {"owner": owner})
        return [KeptSecret(*row) for row in rows]

    async def read(self, tenant: str, names: Sequence[str]) -> Sequence[Secret]:
        given = {"owners": [tenant, INSTALLATION], "names": list(names)}
        rows = await self._database.rows(READ, given)
        return [
            Secret(name, owner, self._seal.open(_bound(owner, name), bytes(sealed), _what(name)))
            for name, owner, sealed in rows
        ]

    async def put(self, owner: str, name: str, value: str, actor: Actor) -> bool:
        sealed = self._seal.seal(_bound(owner, name), value)
        given = {"owner": owner, "name": name, "sealed": sealed, "most": MAX_SECRETS}
        given |= _audited(actor)
        return bool(await self._database.rows(PUT, given, lock=Lock((LOCK,))))

    async def remove(self, owner: str, name: str, actor: Actor) -> bool:
        given = {"owner": owner, "name": name, **_audited(actor)}
        return bool(await self._database.rows(REMOVE, given))


def _bound(owner: str, name: str) -> str:
    """What a sealed value belongs to. No name contains a slash."""
    return f"{name}/{owner}"


def _what(name: str) -> str:
    return f"The secret {name}"


def _audited(actor: Actor) -> dict[str, str]:
    return {"actor": actor.key_id, "address": actor.address}


class KnownSecrets:
    """Names of secrets that are set, as they were at most ``KNOWN_FOR_S`` seconds ago. That one is
    missing is always looked up, so a new one is in force at once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    async def has(self, book: SecretBook, owner: str, name: str, clock: Clock) -> bool:
        """Check if an owner has a secret."""
        now = clock.monotonic()
        until, names = self._known.get(owner, (0.0, frozenset[str]()))
        if now < until and name in names:
            return True
        found = frozenset(each.name for each in await book.list(owner))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[owner] = now + KNOWN_FOR_S, found
        return name in found
