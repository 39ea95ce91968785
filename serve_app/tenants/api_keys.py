"""Storage of API keys in PostgreSQL, with a short cache."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hmac
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, LiteralString, Protocol, TypeVar

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured, Unauthenticated
from serve_app.domain.operations import Actor
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database
from serve_app.tenants.credentials import Credential, from_header, new_credential, parse_given

# API keys: scopes, identities and the interface to their storage.

API, PRIORITY, ADMIN = "api", "priority", "admin"
SCOPES = frozenset({API, PRIORITY, ADMIN})
"""Scopes of a key.

``api``: submit, read and cancel the tenant's requests. ``priority``: submit with high priority.
``admin``: high priority, the installation's statistics, and the management of keys.
"""

DEFAULT_TENANT = "default"
MAX_TENANTS = 1000
"""Tenants that a list has."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Authenticated caller."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    replay_undelivered: bool = False


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """Properties of a key, without the secret, which is not stored."""

    id: str
    tenant: str
    scopes: frozenset[str]
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replay_undelivered: bool = False


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """Tenant, which exists as soon as it has had a key."""

    id: str
    created_at: datetime
    valid_keys: int  # neither revoked nor expired


class Keys(Protocol):
    """API keys of all tenants. The methods raise ``DatabaseUnavailable`` without a database."""

    async def authenticate(self, header: str | None) -> Caller:
        """Identity of the caller that sent this ``Authorization`` header.

        Raises ``Unauthenticated`` with the reason, which never reveals whether the id exists. A
        revocation takes effect within seconds.
        """
        ...

    async def identity_of(self, key_id: str) -> Caller:
        """Identity of a key, for a token that names it.

        Raises ``Unauthenticated`` if the key was revoked or has expired.
        """
        ...

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: frozenset[str] = frozenset({API}),
        expires_at: datetime | None = None,
        credential: Credential | None = None,
        replay_undelivered: bool = False,
        actor: Actor | None = None,
    ) -> Credential:
        """Create a key, and its tenant if it does not exist. Only this call returns the secret.

        ``actor``: the operator, for the audit log; None if no operator acts.

        ``replay_undelivered``: if the response to a submit is lost, the next submit of the same
        body gets it.
        """
        ...

    async def list(self, tenant: str) -> Sequence[KeyInfo]:
        """All keys of a tenant, including revoked ones, oldest first."""
        ...

    async def tenants(self) -> Sequence[TenantInfo]:
        """All tenants by id, at most ``MAX_TENANTS``."""
        ...

    async def revoke(self, key_id: str, actor: Actor | None = None) -> bool:
        """Revoke a key. Returns False if it does not exist.

        Revoking a key twice is not an error; the audit log has it once.
        """
        ...

    async def any(self) -> bool:
        """Return True if at least one key exists."""
        ...


# LRU cache with a time limit, for database lookups.

V = TypeVar("V")


class RecentKeys(Generic[V]):
    """Cache of at most ``size`` values, each for ``keep_s``. Evicts the least recently used."""

    def __init__(self, size: int, keep_s: float) -> None:
        self._size = size
        self._keep_s = keep_s
        self._items: OrderedDict[str, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str, now: float) -> V | None:
        found = self._items.get(name)
        if found is None:
            return None
        until, value = found
        if now >= until:
            del self._items[name]
            return None
        self._items.move_to_end(name)
        return value

    def put(self, name: str, value: V, now: float) -> None:
        self._items[name] = (now + self._keep_s, value)
        self._items.move_to_end(name)
        while len(self._items) > self._size:
            self._items.popitem(last=False)

    def drop(self, name: str) -> None:
        self._items.pop(name, None)


CACHE_S = 5.0
STALE_S = 60.0
STALE_AFTER_S = 1.0
"""How long a call waits for the lookup of a key that was checked in the last ``STALE_S``."""
CACHE_SIZE = 10_000

CREATE: LiteralString = """
WITH made AS (
    INSERT INTO api_keys (id, tenant, digest, scopes, name, expires_at, replay_undelivered)
    VALUES (%(id)s, %(tenant)s, %(digest)s, %(scopes)s, %(name)s, %(expires_at)s, %(replay)s)
)
INSERT INTO audit (actor, address, action, subject, detail)
SELECT %(actor)s, %(address)s, 'key.create', %(id)s, %(detail)s::json
WHERE %(actor)s::text IS NOT NULL
"""
REVOKE: LiteralString = """
WITH revoked AS (
    UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL
    RETURNING id, tenant
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'key.revoke', id, json_build_object('tenant', tenant)
    FROM revoked WHERE %(actor)s::text IS NOT NULL
)
SELECT id FROM api_keys WHERE id = %(id)s
"""

_BAD = "The API key is not valid."


@dataclass(frozen=True, slots=True)
class _Stored:
    digest: bytes
    identity: Caller
    expires_at: datetime | None


_UNKNOWN_KEY = _Stored(bytes(32), Caller("", "", frozenset()), None)
"""Stand-in for an unknown id, so that the comparison takes as long as with a wrong secret."""


class KeyRing:
    """Implementation of ``Keys`` over the table ``api_keys``. The owner starts and closes the
    database, which no other statements use, so that none of them delays a call.

    Lookups are cached for ``keep_s``, so a revocation takes effect on other replicas within that
    time. While the database does not answer, keys that were checked in the last ``STALE_S`` are
    accepted.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keep_s: float = CACHE_S,
        size: int = CACHE_SIZE,
    ) -> None:
        self._database = database
        self._clock = clock
        self._known: RecentKeys[_Stored] = RecentKeys(size, keep_s)
        self._stale: RecentKeys[_Stored] = RecentKeys(size, STALE_S)
        self._lookups: dict[str, asyncio.Task[_Stored | None]] = {}
        # Separate, so that a flood of invented ids cannot evict the valid ones.
        self._unknown: RecentKeys[bool] = RecentKeys(size, keep_s)

    async def authenticate(self, header: str | None) -> Caller:
        credential = from_header(header)
        stored = await self._find(credential.id) or _UNKNOWN_KEY
        same = hmac.compare_digest(credential.digest, stored.digest)
        if not same or stored is _UNKNOWN_KEY:
            raise Unauthenticated(_BAD)
        return self._identity(stored)

    async def identity_of(self, key_id: str) -> Caller:
        stored = await self._find(key_id)
        if stored is None:
            raise Unauthenticated("The API key of this token is no longer valid.")
        return self._identity(stored)

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: frozenset[str] = frozenset({API}),
        expires_at: datetime | None = None,
        credential: Credential | None = None,
        replay_undelivered: bool = False,
        actor: Actor | None = None,
    ) -> Credential:
        made = credential or new_credential()
        await self._rows(
            "INSERT INTO tenants (id, name) VALUES (%(id)s, %(id)s) ON CONFLICT (id) DO NOTHING",
            {"id": tenant},
        )
        await self._rows(
            CREATE,
            {
                "id": made.id,
                "tenant": tenant,
                "digest": made.digest,
                "scopes": sorted(scopes),
                "name": name,
                "expires_at": expires_at,
                "replay": replay_undelivered,
                "actor": actor and actor.key_id,
                "address": actor and actor.address,
                "detail": json.dumps({"tenant": tenant, "alias": name, "scopes": sorted(scopes)}),
            },
        )
        self._unknown.drop(made.id)
        return made

    async def list(self, tenant: str) -> Sequence[KeyInfo]:
        rows = await self._rows(
            "SELECT id, tenant, scopes, name, created_at, expires_at, revoked_at, "
            "replay_undelivered FROM api_keys WHERE tenant = %(tenant)s ORDER BY created_at, id",
            {"tenant": tenant},
        )
        return [_info(row) for row in rows]

    async def tenants(self) -> Sequence[TenantInfo]:
        rows = await self._rows(
            "SELECT t.id, t.created_at, count(k.id) FILTER (WHERE k.revoked_at IS NULL AND "
            "(k.expires_at IS NULL OR k.expires_at > %(now)s)) FROM tenants t "
            "LEFT JOIN api_keys k ON k.tenant = t.id GROUP BY t.id ORDER BY t.id LIMIT %(most)s",
            {"most": MAX_TENANTS, "now": self._clock.now()},
        )
        return [TenantInfo(*row) for row in rows]

    async def revoke(self, key_id: str, actor: Actor | None = None) -> bool:
        params = {
            "id": key_id,
            "actor": actor and actor.key_id,
            "address": actor and actor.address,
        }
        rows = await self._rows(REVOKE, params)
        self._known.drop(key_id)
        self._stale.drop(key_id)
        return bool(rows)

    async def any(self) -> bool:
        return bool(await self._rows("SELECT 1 FROM api_keys LIMIT 1"))

    def _identity(self, stored: _Stored) -> Caller:
        if stored.expires_at is not None and self._clock.now() >= stored.expires_at:
            raise Unauthenticated("The API key has expired.")
        return stored.identity

    async def _find(self, key_id: str) -> _Stored | None:
        now = self._clock.monotonic()
        stored = self._known.get(key_id, now)
        if stored is not None or self._unknown.get(key_id, now):
            return stored
        # One lookup at a time for a key: many calls at once would wait for each other's connection.
        lookup = self._lookups.get(key_id)
        if lookup is None:
            lookup = self._lookups[key_id] = asyncio.create_task(self._look_up(key_id))
            lookup.add_done_callback(lambda _: self._lookups.pop(key_id, None))
        stale = self._stale.get(key_id, now)
        if stale is None:
            return await asyncio.shield(lookup)
        lookup.add_done_callback(_retrieve)
        await asyncio.wait([lookup], timeout=STALE_AFTER_S)
        if lookup.done() and lookup.exception() is None:
            return lookup.result()
        return stale

    async def _look_up(self, key_id: str) -> _Stored | None:
        now = self._clock.monotonic()
        rows = await self._rows(
            "-- name: find_key\n"
            "SELECT k.digest, k.tenant, k.scopes, k.expires_at, k.replay_undelivered "
            "FROM api_keys k "
            "JOIN tenants t ON t.id = k.tenant "
            "WHERE k.id = %(id)s AND k.revoked_at IS NULL AND t.disabled_at IS NULL",
            {"id": key_id},
        )
        if not rows:
            self._unknown.put(key_id, True, now)  # noqa: FBT003
            self._stale.drop(key_id)
            return None
        digest, tenant, scopes, expires_at, replay_undelivered = rows[0]
        identity = Caller(key_id, tenant, frozenset(scopes), replay_undelivered)
        stored = _Stored(bytes(digest), identity, expires_at)
        self._known.put(key_id, stored, now)
        self._stale.put(key_id, stored, now)
        return stored

    async def _rows(
        self, sql: LiteralString, params: Mapping[str, Any] | None = None
    ) -> builtins.list[builtins.tuple[Any, ...]]:
        """Run one statement, commit it and return its rows. Raises ``DatabaseUnavailable``."""
        try:
            return await self._database.rows(sql, params)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(
                "The API key cannot be checked, because the database is not available."
            ) from error


def _retrieve(lookup: asyncio.Task[_Stored | None]) -> None:
    """Mark the error of a lookup as seen, which every caller may have given up."""
    if not lookup.cancelled():
        lookup.exception()


def _info(row: builtins.tuple[Any, ...]) -> KeyInfo:
    key_id, tenant, scopes, *rest = row
    return KeyInfo(key_id, tenant, frozenset(scopes), *rest)


# Creation of a new installation's first API key.


async def ensure_first_key(keys: Keys, given: str | None, path: Path) -> Credential | None:
    """Create the first key unless a key exists. Returns it if it was created, else None.

    ``given`` (``id:secret``, from the operator) is used if it is set, and added if it is not stored
    yet. Otherwise a random key is created. The key is written to ``path``, readable only by its
    owner, *before* it is stored: a crash between the two steps leaves a file that the next start
    replaces, never a stored key that no one knows. The caller holds a lock across ingress replicas.

    Raises ``Misconfigured`` if ``given`` is malformed or its id belongs to another key, or if
    ``path`` cannot be written.
    """
    wanted = parse_given(given) if given else None
    if wanted is None and await keys.any():
        return None
    if wanted is not None and await _known(keys, wanted):
        await asyncio.to_thread(_write, path, str(wanted))
        return None
    first = wanted or new_credential()
    await asyncio.to_thread(_write, path, str(first))
    return await keys.create(
        DEFAULT_TENANT, name="first", scopes=frozenset({API, ADMIN}), credential=first
    )


async def _known(keys: Keys, wanted: Credential) -> bool:
    """Return True if ``wanted`` is stored. Raises ``Misconfigured`` if its id is stored with
    another secret or is revoked."""
    try:
        await keys.authenticate(f"Key {wanted}")
    except Unauthenticated:
        if all(info.id != wanted.id for info in await keys.list(DEFAULT_TENANT)):
            return False
        raise Misconfigured(
            f"DARKROOM_API_KEY uses the id {wanted.id}, but a key with this id is stored with "
            "another secret, or was revoked. Give it another id."
        ) from None
    return True


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Misconfigured(
            f"The API key cannot be written to {path}: {error.strerror}. Check that the directory "
            "is writable and has free space."
        ) from error
