"""Drafts in the fake queue. Their files and their expiry are the database's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime

from serve_app.domain.audit.acts import Actor
from serve_app.domain.media.draft import DRAFTS, DraftOrigin, DraftSpace, StoredDraft
from serve_app.domain.ports import Clock
from serve_app.tenants.scopes import Caller
from tests.fakes.queue_row import Row


class FakeDrafts:
    """Finds the drafts in the outcomes of requests."""

    def __init__(self, clock: Clock, rows: Mapping[str, Row], note: Callable[..., None]) -> None:
        self._clock, self._rows, self._note = clock, rows, note
        self._deleted: set[str] = set()

    async def used_bytes(self, tenant: str) -> int:
        return sum(origin.draft.size for origin in self._all(tenant))

    async def space(self, tenant: str, endpoint: str) -> DraftSpace:
        coming = sum(
            row.draft_bytes
            for row in self._rows.values()
            if row.request.tenant == tenant and row.request.outcome is None
        )
        own = [origin.draft for origin in self._all(tenant)]
        sizes = [draft.size for draft in own if draft.endpoint == endpoint]
        return DraftSpace(sum(draft.size for draft in own), coming, max(sizes, default=0))

    async def open(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        origins = (origin for origin in self._all(tenant) if origin.draft.id == draft_id)
        return next(origins, None)

    async def look(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        return await self.open(tenant, draft_id)

    async def get(self, tenant: str, draft_id: str) -> StoredDraft | None:
        origin = await self.open(tenant, draft_id)
        return None if origin is None else origin.draft

    async def newest(
        self,
        tenant: str,
        limit: int,
        before: tuple[datetime, str] | None = None,
        *,
        endpoints: Collection[str] = (),
        request_id: str | None = None,
    ) -> Sequence[StoredDraft]:
        caller = Caller("", tenant, frozenset(), endpoints=tuple(endpoints))
        own = [origin.draft for origin in self._all(tenant) if caller.allows(origin.draft.endpoint)]
        own = [draft for draft in own if request_id in (None, draft.request_id)]
        own = [draft for draft in own if before is None or (draft.created_at, draft.id) < before]
        return sorted(own, key=lambda draft: (draft.created_at, draft.id), reverse=True)[:limit]

    async def delete(self, tenant: str, draft_id: str, actor: Actor | None = None) -> bool:
        if await self.get(tenant, draft_id) is None:
            return False
        self._deleted.add(draft_id)
        if actor is not None:
            self._note(actor, "draft.delete", draft_id, {"tenant": tenant})
        return True

    def _all(self, tenant: str) -> Iterator[DraftOrigin]:
        for row in self._rows.values():
            request, outcome = row.request, row.request.outcome
            if request.tenant != tenant or outcome is None or request.finished_at is None:
                continue
            described = (outcome.output or {}).get(DRAFTS, ())
            for facts, file in zip(described, outcome.drafts, strict=False):
                expires_at = datetime.fromisoformat(facts["expires_at"])
                if facts["id"] in self._deleted or expires_at <= self._clock.now():
                    continue
                draft = StoredDraft(
                    id=facts["id"],
                    tenant=tenant,
                    request_id=request.id,
                    endpoint=request.endpoint,
                    key=file.key,
                    size=file.size,
                    seed=facts["seed"],
                    step=facts["step"],
                    steps=facts["steps"],
                    noise=facts["noise"],
                    created_at=request.finished_at,
                    expires_at=expires_at,
                )
                yield DraftOrigin(draft, row.input, row.endpoint_digest)
