"""Tenants in memory. The key ring knows those that had a key."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.tenants.tenants import (
    Limits,
    TenantChange,
    TenantInfo,
    action_of,
    detail_of,
    limits_for_audit,
)
from tests.fakes.keyring import FakeKeyRing

Note = Callable[[Actor, str, str, Mapping[str, Any]], None]


class FakeTenants:
    def __init__(self, clock: Clock, keys: FakeKeyRing, note: Note = lambda *_: None) -> None:
        """``note`` writes the audit log."""
        self._clock = clock
        self._keys = keys
        self._note = note
        self._stored: dict[str, TenantInfo] = {}
        self._version = 0

    async def disable_for_deletion(self, tenant: str, usage: str, actor: Actor) -> None:
        """Disable a tenant without the act of it, and write the act of its deletion."""
        info = await self.find(tenant)
        assert info is not None
        self._version += 1
        self._stored[tenant] = replace(info, disabled_at=info.disabled_at or self._clock.now())
        self._keys.disabled = {*self._keys.disabled, tenant}
        self._note(actor, "tenant.delete", tenant, {"usage": usage})

    def remove(self, tenant: str) -> None:
        """Remove a tenant and its keys: the end of its deletion."""
        self._version += 1
        self._stored.pop(tenant, None)
        self._keys.remove_all(tenant)

    async def version(self) -> str:
        return str(self._version or "")

    async def special(self) -> Sequence[TenantInfo]:
        return [record for record in await self.list() if record.limits or record.disabled_at]

    async def list(self) -> Sequence[TenantInfo]:
        with_keys = self._keys.valid_keys()
        for tenant, created_at in self._keys.tenants().items():
            self._stored.setdefault(tenant, TenantInfo(tenant, created_at, name=tenant))
        return [
            replace(self._stored[tenant_id], valid_keys=with_keys[tenant_id])
            for tenant_id in sorted(self._stored)
        ]

    async def find(self, tenant: str) -> TenantInfo | None:
        return next((record for record in await self.list() if record.id == tenant), None)

    async def create(self, tenant: str, name: str, limits: Limits, actor: Actor) -> bool:
        if await self.find(tenant) is not None:
            return False
        self._version += 1
        name = name or tenant
        self._stored[tenant] = TenantInfo(tenant, self._clock.now(), name=name, limits=dict(limits))
        self._note(
            actor, "tenant.create", tenant, {"name": name, "limits": limits_for_audit(limits)}
        )
        return True

    async def change(self, tenant: str, change: TenantChange, actor: Actor) -> TenantInfo | None:
        info = await self.find(tenant)
        if info is None:
            return None
        self._version += 1
        limits = {**info.limits, **change.limits}
        at = info.disabled_at
        if change.disabled is not None:
            at = (at or self._clock.now()) if change.disabled else None
        self._stored[tenant] = replace(
            info,
            name=info.name if change.name is None else change.name,
            limits={name: value for name, value in limits.items() if value is not None},
            disabled_at=at,
        )
        disabled = {record.id for record in self._stored.values() if record.disabled_at}
        self._keys.disabled = builtins.set(disabled)
        self._note(actor, action_of(change), tenant, detail_of(change))
        return await self.find(tenant)
