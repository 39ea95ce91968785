"""Deletions of tenants, in memory: a test ends them."""

from __future__ import annotations

from dataclasses import replace

from serve_app.domain.audit.acts import Actor
from serve_app.domain.ports import Clock
from serve_app.tenants.deletions import TenantDeletion, UsageKept, kept_name
from tests.fakes.tenants import FakeTenants


class FakeTenantDeletions:
    def __init__(self, clock: Clock, tenants: FakeTenants) -> None:
        self._clock = clock
        self._tenants = tenants
        self._known: dict[str, TenantDeletion] = {}

    async def ask(self, tenant: str, usage: UsageKept, actor: Actor) -> TenantDeletion | None:
        info = await self._tenants.find(tenant)
        if info is None:
            return None
        known = self._known.get(tenant)
        if known is None or known.ended_at is not None:
            now = self._clock.now()
            kept = kept_name(tenant, usage, now) if usage is UsageKept.NAMED else None
            left = {"requests": 0, "uploads": 0, "usage_lines": 0, "keys": info.valid_keys}
            self._known[tenant] = TenantDeletion(tenant, now, actor.key_id, kept, None, left)
            await self._tenants.disable_for_deletion(tenant, usage, actor)
        return self._known[tenant]

    async def find(self, tenant: str) -> TenantDeletion | None:
        return self._known.get(tenant)

    def end(self, tenant: str) -> None:
        """End the deletion: as the job of the queue does."""
        self._tenants.remove(tenant)
        left = dict.fromkeys(self._known[tenant].left, 0)
        self._known[tenant] = replace(self._known[tenant], ended_at=self._clock.now(), left=left)
