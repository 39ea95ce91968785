"""Access rules and revoked URLs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from serve_app.domain.audit.acts import Actor
from serve_app.domain.media.file_access import FileAccess, Revocation
from serve_app.domain.ports import Clock
from serve_app.postgres.file_access import MAX_REVOCATIONS_PER_TENANT, MAX_RULES_PER_TENANT
from tests.fakes.keyring import Note


class FakeFileAccess:
    def __init__(self, clock: Clock, note: Note = lambda *_: None) -> None:
        """``note`` writes the audit."""
        self._clock = clock
        self._note = note
        self._rules: dict[str, FileAccess] = {}
        self._revoked: dict[tuple[str, str], tuple[str, Revocation]] = {}
        self._number = 0
        self.reads = 0  # of rules
        self.files: set[str] | None = None  # None: every file exists

    async def keep(self, access: FileAccess) -> bool:
        own = sum(rule.tenant == access.tenant for rule in self._rules.values())
        if own < MAX_RULES_PER_TENANT:
            self._rules.setdefault(access.id, access)
        return access.id in self._rules

    def delete_tenant(self, tenant: str) -> None:
        """Delete its rules, as the deletion of the tenant does."""
        self._rules = {i: rule for i, rule in self._rules.items() if rule.tenant != tenant}

    @property
    def ids(self) -> set[str]:
        return {*self._rules}

    async def find(self, access_id: str) -> FileAccess | None:
        self.reads += 1
        return self._rules.get(access_id)

    async def page(self, tenant: str, after: str, limit: int) -> Sequence[FileAccess]:
        own = [rule for rule in self._rules.values() if rule.tenant == tenant and rule.id > after]
        return sorted(own, key=lambda rule: rule.id)[:limit]

    async def revoke(
        self,
        tenant: str,
        key: str,
        signature: str,
        expires_at: datetime | None,
        actor: Actor,
    ) -> bool:
        single = sum(
            owner == tenant and revocation.signature != ""
            for owner, revocation in self._revoked.values()
        )
        if signature and single >= MAX_REVOCATIONS_PER_TENANT:
            return False
        self._number += 1
        previous = self._revoked.get((key, signature))
        generation = (previous[1].generation if previous else 0) + (not signature)
        revoked = Revocation(self._number, key, signature, generation, expires_at)
        self._revoked[key, signature] = (tenant, revoked)
        detail = {"tenant": tenant, "urls": "one" if signature else "all"}
        self._note(actor, "file.revoke", key, detail)
        return True

    async def revocations(self, after: int) -> Sequence[Revocation]:
        revocations = (
            revocation for _, revocation in self._revoked.values() if revocation.number > after
        )
        return sorted(revocations, key=lambda revocation: revocation.number)

    async def forget(self) -> None:
        now = self._clock.now()
        self._revoked = {
            place: (tenant, revocation)
            for place, (tenant, revocation) in self._revoked.items()
            if (
                revocation.expires_at is None
                or (now - revocation.expires_at).total_seconds() <= 3600
            )
            and (self.files is None or revocation.key in self.files)
        }
