"""Search, favourites and share links in the fake queue."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Overloaded, RequestNotFound
from serve_app.domain.ports import Clock
from serve_app.domain.request import (
    FoundRequests,
    NewShareLink,
    OpenedShare,
    Request,
    RequestFilter,
    RequestShare,
    State,
)
from serve_app.queue.gallery.share_links import MAX_LINKS
from serve_app.queue.store import messages
from serve_app.queue.store.words import FIELDS, MIN_PREFIX, words_of
from serve_app.queue.transactions.insert import EncodedInput
from tests.fakes.queue_row import Row


class FakeGallery:
    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        page: Callable[..., Awaitable[Sequence[Request]]],
        note: Callable[..., None],
    ) -> None:
        """``page``: of ``ClientSide``."""
        self._clock, self._rows, self._page, self._note = clock, rows, page, note
        self._marked: set[str] = set()
        self._links: dict[bytes, RequestShare] = {}

    async def search(self, request_filter: RequestFilter, limit: int) -> FoundRequests:
        requests = [
            request
            for request in await self._all(request_filter)
            if self._fits(request, request_filter)
        ]
        shown = requests[:limit]
        return FoundRequests(shown, shown[-1].id if len(requests) > limit else None)

    async def count_by_day(
        self,
        tenant: str,
        edges: Sequence[datetime],
        endpoints: Sequence[str],
        states: Sequence[State] = (),
    ) -> Sequence[int]:
        own = await self._all(RequestFilter(tenant, endpoints=endpoints, states=states))
        counts = Counter(
            bisect_right(edges, request.created_at) for request in own if request.state.final
        )
        return [counts[number] for number in range(1, len(edges))]

    async def several(self, tenant: str, request_ids: Sequence[str]) -> Sequence[Request]:
        own = self._existing(tenant, request_ids)
        return [self._rows[request_id].request for request_id in sorted(own, reverse=True)]

    async def shortened_inputs(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        rows = [self._rows[request_id] for request_id in self._existing(tenant, request_ids)]
        return frozenset(
            row.request.id
            for row in rows
            if row.request.forgetting is None and EncodedInput(row.input).large
        )

    async def whole_input(self, tenant: str, request_id: str) -> Mapping[str, Any] | None:
        own = self._existing(tenant, [request_id])
        return self._rows[request_id].input if own else None

    async def favourites_among(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        return self._existing(tenant, request_ids) & self._marked

    async def set_favourites(
        self, tenant: str, request_ids: Sequence[str], *, favourite: bool
    ) -> frozenset[str]:
        existing = self._existing(tenant, request_ids)
        self._marked = self._marked | existing if favourite else self._marked - existing
        return existing

    async def share(
        self, tenant: str, request_id: str, new: NewShareLink, actor: Actor
    ) -> RequestShare:
        if not self._existing(tenant, [request_id]):
            raise RequestNotFound(f"There is no request {request_id}.")
        if len(await self.shares(tenant)) >= MAX_LINKS:
            raise Overloaded(messages.TOO_MANY_LINKS, 60.0, "share_links")
        now = self._clock.now()
        ends = now + timedelta(seconds=new.valid_s)
        link = RequestShare(new.id, request_id, now, ends, actor.key_id)
        self._links[new.digest] = link
        detail = {"tenant": tenant, "request_id": request_id}
        self._note(actor, "share.create", link.share_id, detail)
        return link

    async def shares(self, tenant: str) -> Sequence[RequestShare]:
        own = [share for share in self._valid().values() if self._owned(tenant, share)]
        return sorted(own, key=lambda share: share.created_at, reverse=True)

    async def revoke_share(self, tenant: str, link: str, actor: Actor) -> bool:
        for digest, share in self._links.items():
            if share.share_id == link and self._owned(tenant, share):
                del self._links[digest]
                detail = {"tenant": tenant, "request_id": share.request_id}
                self._note(actor, "share.revoke", link, detail)
                return True
        return False

    async def find_shared(self, digest: bytes) -> OpenedShare | None:
        link = self._valid().get(digest)
        return OpenedShare(self._rows[link.request_id].request, link.expires_at) if link else None

    def _valid(self) -> Mapping[bytes, RequestShare]:
        now = self._clock.now()
        return {
            digest: share
            for digest, share in self._links.items()
            if share.expires_at > now and share.request_id in self._rows
        }

    def _owned(self, tenant: str, link: RequestShare) -> bool:
        return bool(self._existing(tenant, [link.request_id]))

    def _existing(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        own = (request_id for request_id in request_ids if request_id in self._rows)
        return frozenset(
            request_id for request_id in own if self._rows[request_id].request.tenant == tenant
        )

    async def _all(self, request_filter: RequestFilter) -> Sequence[Request]:
        return await self._page(
            request_filter.tenant,
            states=request_filter.states,
            endpoints=request_filter.endpoints,
            since=request_filter.since,
            until=request_filter.until,
            before=request_filter.before,
            limit=len(self._rows) + 1,
        )

    def _fits(self, request: Request, request_filter: RequestFilter) -> bool:
        if request_filter.favourites and request.id not in self._marked:
            return False
        if request_filter.words is None:
            return True
        row, kept = self._rows[request.id], request.forgetting is None
        texts = (row.input.get(name) for name in FIELDS) if kept else ()
        own = words_of(" ".join(text for text in texts if isinstance(text, str)))
        searched = words_of(request_filter.words)
        return bool(searched or request_filter.favourites) and all(
            any(
                token == word or (len(word) >= MIN_PREFIX and token.startswith(word))
                for token in own
            )
            for word in searched
        )
