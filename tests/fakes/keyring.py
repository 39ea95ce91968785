"""API keys in memory: the same port and the same refusals as PostgreSQL's."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from serve_app.domain.errors import Unauthenticated
from serve_app.domain.operations import Actor
from serve_app.domain.ports import Clock
from serve_app.tenants.api_keys import API, Caller, KeyInfo, TenantInfo
from serve_app.tenants.credentials import Credential, from_header, new_credential

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]
"""Actor, action, subject, detail."""


class FakeKeyRing:
    def __init__(self, clock: Clock, note: Note = lambda *_: None) -> None:
        """``note`` writes the audit."""
        self._clock = clock
        self._note = note
        self._keys: dict[str, tuple[bytes, KeyInfo]] = {}

    async def authenticate(self, header: str | None) -> Caller:
        credential = from_header(header)
        digest, info = self._keys.get(credential.id, (b"", None))
        if info is None or digest != credential.digest or info.revoked_at is not None:
            raise Unauthenticated("The API key is not valid.")
        return self._identity(info)

    async def identity_of(self, key_id: str) -> Caller:
        _, info = self._keys.get(key_id, (b"", None))
        if info is None or info.revoked_at is not None:
            raise Unauthenticated("The API key of this token is no longer valid.")
        return self._identity(info)

    def _identity(self, info: KeyInfo) -> Caller:
        if info.expires_at is not None and self._clock.now() >= info.expires_at:
            raise Unauthenticated("The API key has expired.")
        return Caller(info.id, info.tenant, info.scopes, info.replay_undelivered)

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
        now = self._clock.now()
        info = KeyInfo(made.id, tenant, scopes, name, now, expires_at, None, replay_undelivered)
        self._keys[made.id] = (made.digest, info)
        if actor is not None:
            detail = {"tenant": tenant, "alias": name, "scopes": sorted(scopes)}
            self._note(actor, "key.create", made.id, detail)
        return made

    async def list(self, tenant: str) -> Sequence[KeyInfo]:
        return [info for _, info in self._keys.values() if info.tenant == tenant]

    async def tenants(self) -> Sequence[TenantInfo]:
        now = self._clock.now()
        infos = [info for _, info in self._keys.values()]
        found: list[TenantInfo] = []
        for tenant in sorted({info.tenant for info in infos}):
            own = [info for info in infos if info.tenant == tenant]
            valid = [
                info
                for info in own
                if info.revoked_at is None and (info.expires_at is None or info.expires_at > now)
            ]
            found.append(TenantInfo(tenant, min(info.created_at for info in own), len(valid)))
        return found

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
