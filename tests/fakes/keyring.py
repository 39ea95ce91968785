"""API keys in memory: the same port and the same refusals as PostgreSQL's."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Unauthenticated
from serve_app.domain.ports import Clock
from serve_app.tenants.api_keys import LINK_NAME, ApiKey, ended_link, tenant_disabled_error
from serve_app.tenants.credentials import (
    Credential,
    claimed_id,
    from_header,
    new_credential,
    new_token,
    short_hash,
)
from serve_app.tenants.scopes import API, Caller
from serve_app.tenants.sign_in import Person, Rights

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]
"""Actor, action, subject, detail."""


class FakeKeyRing:
    def __init__(self, clock: Clock, note: Note = lambda *_: None) -> None:
        """``note`` writes the audit."""
        self._clock = clock
        self._note = note
        self._keys: dict[str, tuple[bytes, ApiKey]] = {}
        self._used: set[str] = set()
        self._links: dict[str, tuple[str, datetime]] = {}  # token → key, and when it ends
        self.disabled: set[str] = set()  # tenants

    async def authenticate(self, header: str | None) -> Caller:
        credential = from_header(header)
        digest, info = self._keys.get(credential.id, (b"", None))
        if info is None or digest != credential.digest or info.revoked_at is not None:
            raise Unauthenticated("The API key is not valid.")
        return self._identity(info)

    async def key_id_of(self, header: str | None) -> str:
        claimed = claimed_id(header)
        return claimed if claimed in self._keys or not claimed else short_hash(claimed)

    async def identity_of(self, key_id: str) -> Caller:
        _, info = self._keys.get(key_id, (b"", None))
        if info is None or info.revoked_at is not None:
            raise Unauthenticated("The API key is no longer valid.")
        return self._identity(info)

    def _identity(self, info: ApiKey) -> Caller:
        if info.expires_at is not None and self._clock.now() >= info.expires_at:
            raise Unauthenticated("The API key has expired.")
        if info.tenant in self.disabled:
            raise tenant_disabled_error(info.tenant)
        self._used.add(info.key_id)
        return Caller(
            info.key_id, info.tenant, info.scopes, info.replay_undelivered, info.endpoints
        )

    def remove_all(self, tenant: str) -> None:
        """Remove the keys of a tenant that is deleted."""
        kept = {id_: key for id_, key in self._keys.items() if key[1].tenant != tenant}
        self._keys = kept
        self.disabled.discard(tenant)

    async def write_uses(self) -> None:
        used, self._used = self._used, set()
        for key_id in used:
            digest, info = self._keys[key_id]
            self._keys[key_id] = (digest, replace(info, last_used_at=self._clock.now()))

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
        issued = credential or new_credential()
        now = self._clock.now()
        info = ApiKey(
            *(issued.id, tenant, scopes, name, now, expires_at, None, replay_undelivered),
            endpoints=tuple(endpoints),
        )
        self._keys[issued.id] = (issued.digest, info)
        if actor is not None:
            detail: dict[str, Any] = {"tenant": tenant, "alias": name, "scopes": sorted(scopes)}
            if endpoints:
                detail["endpoints"] = [*endpoints]
            self._note(actor, "key.create", issued.id, detail)
        return issued

    async def list(self, tenant: str) -> Sequence[ApiKey]:
        return [info for _, info in self._keys.values() if info.tenant == tenant]

    async def sign_in(
        self, person: Person, rights: Rights, expires_at: datetime, address: str
    ) -> Credential:
        issued, now = new_credential(), self._clock.now()
        self._keys = {
            key_id: (digest, info)
            for key_id, (digest, info) in self._keys.items()
            if (info.tenant, info.person) != (rights.tenant, person.name)
            or info.expires_at is None
            or info.expires_at >= now - timedelta(days=7)
        }
        info = ApiKey(issued.id, rights.tenant, rights.scopes, "", now, expires_at)
        info = replace(info, endpoints=rights.endpoints, person=person.name, kind="person")
        self._keys[issued.id] = (issued.digest, info)
        named = {"person": person.name, "sub": person.subject}
        detail = {"tenant": rights.tenant} | named | {"scopes": sorted(rights.scopes)}
        self._note(Actor(issued.id, address), "sign-in", person.name, detail)
        return issued

    async def offer_link(self, actor: Actor, expires_at: datetime) -> str:
        token = new_token()
        self._links[token] = (actor.key_id, expires_at)
        detail = {
            "tenant": self._keys[actor.key_id][1].tenant,
            "expires_at": expires_at.isoformat(),
        }
        self._note(actor, "key.link", actor.key_id, detail)
        return token

    async def take_link(self, token: str, address: str) -> Credential:
        key_id, until = self._links.pop(token, ("", self._clock.now()))
        _, info = self._keys.get(key_id, (b"", None))
        now = self._clock.now()
        if until <= now or info is None or info.revoked_at is not None:
            raise ended_link()
        if info.expires_at is not None and info.expires_at <= now:
            raise ended_link()
        issued = new_credential()
        rights = (info.tenant, info.scopes, LINK_NAME, now, info.expires_at)
        self._keys[issued.id] = (
            issued.digest,
            ApiKey(issued.id, *rights, endpoints=info.endpoints),
        )
        detail = {"tenant": info.tenant, "alias": LINK_NAME, "scopes": sorted(info.scopes)}
        self._note(Actor(key_id, address), "key.create", issued.id, detail)
        return issued

    async def find(self, key_id: str) -> ApiKey | None:
        return self._keys[key_id][1] if key_id in self._keys else None

    async def rotate(
        self, key_id: str, overlap_s: float, actor: Actor | None = None
    ) -> Credential | None:
        now, until = self._clock.now(), self._clock.now() + timedelta(seconds=overlap_s)
        digest, old = self._keys.get(key_id, (b"", None))
        if old is None or old.revoked_at or old.successor:
            return None
        if old.expires_at is not None and old.expires_at <= now:
            return None
        issued = new_credential()
        ends = now + (old.expires_at - old.created_at) if old.expires_at else None
        fresh = replace(old, key_id=issued.id, created_at=now, expires_at=ends, last_used_at=None)
        self._keys[issued.id] = (issued.digest, fresh)
        least = min(old.expires_at or until, until)
        self._keys[key_id] = (digest, replace(old, expires_at=least, successor=issued.id))
        if actor is not None:
            self._note(actor, "key.rotate", key_id, {"tenant": old.tenant, "successor": issued.id})
        return issued

    def tenants(self) -> Mapping[str, datetime]:
        """Tenants that have had a key, with the time of the first."""
        first_seen: dict[str, datetime] = {}
        for _, info in self._keys.values():
            first_seen[info.tenant] = min(
                first_seen.get(info.tenant, info.created_at), info.created_at
            )
        return first_seen

    def valid_keys(self) -> Counter[str]:
        """Number of keys that are neither revoked nor expired, by tenant."""
        now = self._clock.now()
        return Counter(
            info.tenant
            for _, info in self._keys.values()
            if info.revoked_at is None and (info.expires_at is None or info.expires_at > now)
        )

    async def revoke(self, key_id: str, actor: Actor | None = None) -> bool:
        if key_id not in self._keys:
            return False
        digest, info = self._keys[key_id]
        if info.revoked_at is None:
            self._keys[key_id] = (digest, replace(info, revoked_at=self._clock.now()))
            if actor is not None:
                self._note(actor, "key.revoke", key_id, {"tenant": info.tenant})
        return True

    async def any(self) -> builtins.bool:
        return bool(self._keys)
