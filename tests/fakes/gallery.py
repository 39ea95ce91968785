"""Search and favourites in the fake queue."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from serve_app.domain.request import FoundRequests, Request, RequestFilter
from serve_app.queue.store.words import FIELDS, MIN_PREFIX, words_of
from tests.fakes.queue_row import Row


class FakeGallery:
    def __init__(
        self, rows: Mapping[str, Row], page: Callable[..., Awaitable[Sequence[Request]]]
    ) -> None:
        self._rows, self._page = rows, page
        self._marked: set[str] = set()

    async def search(self, wanted: RequestFilter, limit: int) -> FoundRequests:
        found = [each for each in await self._all(wanted) if self._fits(each, wanted)]
        shown = found[:limit]
        return FoundRequests(shown, shown[-1].id if len(found) > limit else None)

    async def days(
        self, tenant: str, edges: Sequence[datetime], endpoints: Sequence[str]
    ) -> Sequence[int]:
        own = await self._all(RequestFilter(tenant, endpoints=endpoints))
        found = Counter(bisect_right(edges, each.created_at) for each in own if each.state.final)
        return [found[number] for number in range(1, len(edges))]

    async def several(self, tenant: str, request_ids: Sequence[str]) -> Sequence[Request]:
        own = self._existing(tenant, request_ids)
        return [self._rows[each].request for each in sorted(own, reverse=True)]

    async def favourites_among(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        return self._existing(tenant, request_ids) & self._marked

    async def set_favourites(
        self, tenant: str, request_ids: Sequence[str], *, favourite: bool
    ) -> frozenset[str]:
        existing = self._existing(tenant, request_ids)
        self._marked = self._marked | existing if favourite else self._marked - existing
        return existing

    def _existing(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        own = (each for each in request_ids if each in self._rows)
        return frozenset(each for each in own if self._rows[each].request.tenant == tenant)

    async def _all(self, wanted: RequestFilter) -> Sequence[Request]:
        return await self._page(
            wanted.tenant,
            states=wanted.states,
            endpoints=wanted.endpoints,
            since=wanted.since,
            until=wanted.until,
            before=wanted.before,
            limit=len(self._rows) + 1,
        )

    def _fits(self, request: Request, wanted: RequestFilter) -> bool:
        if wanted.favourites and request.id not in self._marked:
            return False
        if wanted.words is None:
            return True
        row, kept = self._rows[request.id], request.forgetting is None
        texts = (row.input.get(name) for name in FIELDS) if kept else ()
        own = words_of(" ".join(each for each in texts if isinstance(each, str)))
        searched = words_of(wanted.words)
        return bool(searched or wanted.favourites) and all(
            any(each == word or (len(word) >= MIN_PREFIX and each.startswith(word)) for each in own)
            for word in searched
        )
