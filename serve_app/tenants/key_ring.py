"""Storage of API keys in PostgreSQL, with a short cache."""

from __future__ import annotations

import asyncio
import builtins
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import DatabaseUnavailable, Unauthenticated
from serve_app.domain.ports import Clock
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.tenants.api_keys import LINK_NAME, ApiKey, ended_link, tenant_disabled_error
from serve_app.tenants.credentials import (
    Credential,
    claimed_id,
    digest_of,
    from_header,
    new_credential,
    new_token,
    short_hash,
)
from serve_app.tenants.recent_keys import RecentKeys
from serve_app.tenants.scopes import API, Caller
from serve_app.tenants.sign_in import Person, Rights

CACHE_S = 3.0
STALE_S = 60.0
STALE_AFTER_S = 1.0
"""How long a call waits for the lookup of a key that was checked in the last ``STALE_S``."""
CACHE_SIZE = 10_000

CREATE: LiteralString = f"""
WITH made AS (
    INSERT INTO api_keys
        (id, tenant, digest, scopes, name, expires_at, replay_undelivered, endpoints, created_at)
    VALUES (%(id)s, %(tenant)s, %(digest)s, %(scopes)s, %(name)s, %(expires_at)s, %(replay)s,
            %(endpoints)s, %(now)s)
    RETURNING id
)
{insert_audit("id", "made")}
"""
REVOKE: LiteralString = f"""
WITH revoked AS (
    UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL
    RETURNING id, tenant
),
noted AS ({insert_audit("id", "revoked", "json_build_object('tenant', tenant)")})
SELECT id FROM api_keys WHERE id = %(id)s
"""
# The lock lets one of two rotations at once find the key without a successor.
ROTATE: LiteralString = f"""
WITH old AS (
    SELECT * FROM api_keys
    WHERE id = %(id)s AND revoked_at IS NULL AND successor IS NULL
      AND (expires_at IS NULL OR expires_at > %(now)s)
    FOR UPDATE
),
made AS (
    INSERT INTO api_keys (id, tenant, digest, scopes, name, expires_at, replay_undelivered,
                          endpoints, person, created_at)
    SELECT %(new)s, tenant, %(digest)s, scopes, name,
           %(now)s::timestamptz + (expires_at - created_at), replay_undelivered, endpoints, person,
           %(now)s
    FROM old
),
ended AS (
    UPDATE api_keys k SET expires_at = least(k.expires_at, %(until)s), successor = %(new)s
    FROM old WHERE k.id = old.id
),
noted AS (
    {insert_audit("id", "old", "json_build_object('tenant', tenant, 'successor', %(new)s::text)")}
)
SELECT id FROM old
"""
SIGN_IN: LiteralString = f"""
WITH forgotten AS (
    DELETE FROM api_keys
    WHERE tenant = %(tenant)s AND person = %(person)s AND expires_at < %(forgotten)s
),
made AS (
    INSERT INTO api_keys (id, tenant, digest, scopes, expires_at, endpoints, person, created_at)
    VALUES (%(id)s, %(tenant)s, %(digest)s, %(scopes)s, %(expires_at)s, %(endpoints)s, %(person)s,
            %(now)s)
    RETURNING person
)
{insert_audit("person", "made")}
"""
_LINK_DETAIL: LiteralString = (
    "json_build_object('tenant', tenant, 'expires_at', %(expires_at)s::timestamptz)"
)
OFFER_LINK: LiteralString = f"""
WITH ended AS (DELETE FROM sign_in_links WHERE expires_at <= %(now)s),
offered AS (
    INSERT INTO sign_in_links (digest, key_id, expires_at)
    VALUES (%(digest)s, %(actor)s, %(expires_at)s)
    RETURNING key_id
)
{insert_audit("id", "api_keys JOIN offered ON id = key_id", _LINK_DETAIL)}
"""
# The actor is a column here: the key that the link came from.
TAKE_LINK: LiteralString = """
WITH taken AS (
    DELETE FROM sign_in_links WHERE digest = %(digest)s AND expires_at > %(now)s
    RETURNING key_id
),
source AS (
    SELECT k.* FROM api_keys k JOIN taken t ON t.key_id = k.id
    WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
),
made AS (
    INSERT INTO api_keys (id, tenant, digest, scopes, name, expires_at, endpoints, created_at)
    SELECT %(id)s, tenant, %(key_digest)s, scopes, %(name)s, expires_at, endpoints, %(now)s
    FROM source
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT id, %(address)s, 'key.create', %(id)s,
           json_build_object('tenant', tenant, 'alias', %(name)s::text, 'scopes', scopes)
    FROM source
)
SELECT id FROM source
"""
FORGET_SIGN_INS = timedelta(days=7)
USED: LiteralString = """
UPDATE api_keys SET last_used_at = greatest(last_used_at, %(now)s) WHERE id = ANY(%(ids)s)
"""
INFO: LiteralString = """
SELECT id, tenant, scopes, name, created_at, expires_at, revoked_at, replay_undelivered, endpoints,
       last_used_at, successor, nullif(person, ''),
       CASE person WHEN '' THEN 'service' ELSE 'person' END
FROM api_keys
"""

_BAD = "The API key is not valid."


@dataclass(frozen=True, slots=True)
class _Stored:
    digest: bytes
    identity: Caller
    expires_at: datetime | None
    disabled: bool = False  # its tenant


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
        self._used: set[str] = set()  # since the last write; only keys that exist
        self._most_used = size

    async def authenticate(self, header: str | None) -> Caller:
        credential = from_header(header)
        stored = await self._find(credential.id) or _UNKNOWN_KEY
        same = hmac.compare_digest(credential.digest, stored.digest)
        if not same or stored is _UNKNOWN_KEY:
            raise Unauthenticated(_BAD)
        return self._identity(stored)

    async def key_id_of(self, header: str | None) -> str:
        claimed = claimed_id(header)
        known = not claimed or await self._find(claimed) is not None
        return claimed if known else short_hash(claimed)

    async def identity_of(self, key_id: str) -> Caller:
        stored = await self._find(key_id)
        if stored is None:
            raise Unauthenticated("The API key is no longer valid.")
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
        endpoints: Sequence[str] = (),
        actor: Actor | None = None,
    ) -> Credential:
        key = credential or new_credential()
        await self._create_tenant(tenant)
        await self._rows(
            CREATE,
            {
                "id": key.id,
                "tenant": tenant,
                "digest": key.digest,
                "scopes": sorted(scopes),
                "name": name,
                "expires_at": expires_at,
                "now": self._clock.now(),
                "replay": replay_undelivered,
                "endpoints": [*endpoints],
                **audit_params(
                    actor,
                    "key.create",
                    tenant=tenant,
                    alias=name,
                    scopes=sorted(scopes),
                    **({"endpoints": [*endpoints]} if endpoints else {}),
                ),
            },
        )
        self._unknown.drop(key.id)
        return key

    async def sign_in(
        self, person: Person, rights: Rights, expires_at: datetime, address: str
    ) -> Credential:
        credential, now = new_credential(), self._clock.now()
        await self._create_tenant(rights.tenant)
        params = {
            "id": credential.id,
            "tenant": rights.tenant,
            "digest": credential.digest,
            "scopes": sorted(rights.scopes),
            "expires_at": expires_at,
            "now": now,
            "endpoints": [*rights.endpoints],
            "person": person.name,
            "forgotten": now - FORGET_SIGN_INS,
            **audit_params(
                Actor(credential.id, address),
                "sign-in",
                tenant=rights.tenant,
                person=person.name,
                sub=person.subject,
                scopes=sorted(rights.scopes),
            ),
        }
        await self._rows(SIGN_IN, params)
        return credential

    async def offer_link(self, actor: Actor, expires_at: datetime) -> str:
        token = new_token()
        params = {
            "digest": digest_of(token),
            "expires_at": expires_at,
            "now": self._clock.now(),
            **audit_params(actor, "key.link"),
        }
        await self._rows(OFFER_LINK, params)
        return token

    async def take_link(self, token: str, address: str) -> Credential:
        credential = new_credential()
        params = {
            "digest": digest_of(token),
            "now": self._clock.now(),
            "id": credential.id,
            "key_digest": credential.digest,
            "name": LINK_NAME,
            "address": address,
        }
        if not await self._rows(TAKE_LINK, params):
            raise ended_link()
        return credential

    async def list(self, tenant: str) -> Sequence[ApiKey]:
        sql = f"{INFO} WHERE tenant = %(tenant)s ORDER BY created_at, id"
        return [_info(row) for row in await self._rows(sql, {"tenant": tenant})]

    async def find(self, key_id: str) -> ApiKey | None:
        rows = await self._rows(f"{INFO} WHERE id = %(id)s", {"id": key_id})
        return _info(rows[0]) if rows else None

    async def rotate(
        self, key_id: str, overlap_s: float, actor: Actor | None = None
    ) -> Credential | None:
        credential, now = new_credential(), self._clock.now()
        params = {
            "id": key_id,
            "new": credential.id,
            "digest": credential.digest,
            "now": now,
            "until": now + timedelta(seconds=overlap_s),
            **audit_params(actor, "key.rotate"),
        }
        rows = await self._rows(ROTATE, params)
        self._known.drop(key_id)
        self._stale.drop(key_id)
        return credential if rows else None

    async def revoke(self, key_id: str, actor: Actor | None = None) -> bool:
        rows = await self._rows(REVOKE, {"id": key_id, **audit_params(actor, "key.revoke")})
        self._known.drop(key_id)
        self._stale.drop(key_id)
        return bool(rows)

    async def any(self) -> bool:
        return bool(await self._rows("SELECT 1 FROM api_keys LIMIT 1"))

    async def write_uses(self) -> None:
        """Write which keys were used since the last call: one statement, however many calls there
        were. The owner of the ring calls it about once a minute, and at the end."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            await self._rows(USED, {"ids": [*used], "now": self._clock.now()})
        except DatabaseUnavailable:
            self._used |= used
            raise

    async def _create_tenant(self, tenant: str) -> None:
        await self._rows(
            "INSERT INTO tenants (id, name) VALUES (%(id)s, %(id)s) ON CONFLICT (id) DO NOTHING",
            {"id": tenant},
        )

    def _identity(self, stored: _Stored) -> Caller:
        if stored.expires_at is not None and self._clock.now() >= stored.expires_at:
            raise Unauthenticated("The API key has expired.")
        if stored.disabled:
            raise tenant_disabled_error(stored.identity.tenant)
        if len(self._used) < self._most_used:
            self._used.add(stored.identity.key_id)
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
            "SELECT k.digest, k.tenant, k.scopes, k.expires_at, k.replay_undelivered, "
            "k.endpoints, t.disabled_at IS NOT NULL "
            "FROM api_keys k "
            "JOIN tenants t ON t.id = k.tenant "
            "WHERE k.id = %(id)s AND k.revoked_at IS NULL",
            {"id": key_id},
        )
        if not rows:
            self._unknown.put(key_id, True, now)  # noqa: FBT003
            self._stale.drop(key_id)
            return None
        digest, tenant, scopes, expires_at, replay, endpoints, off = rows[0]
        identity = Caller(key_id, tenant, frozenset(scopes), replay, tuple(endpoints))
        stored = _Stored(bytes(digest), identity, expires_at, off)
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


def _info(row: builtins.tuple[Any, ...]) -> ApiKey:
    key = ApiKey(*row)
    return replace(key, scopes=frozenset(key.scopes), endpoints=tuple(key.endpoints))
