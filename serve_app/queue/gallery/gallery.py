"""PostgreSQL behind the port ``Gallery``."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.request import FoundRequests, Request, RequestFilter
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.gallery.search import Search
from serve_app.queue.gallery.share_links import ShareLinks
from serve_app.queue.store.rows import COLUMNS, SOURCE, known_id, request_from_row
from serve_app.queue.transactions.history import History

MARK = """
INSERT INTO favourites (tenant, request_id)
SELECT %(tenant)s, r.id FROM requests r
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.tenant = %(tenant)s
ON CONFLICT (tenant, request_id) DO NOTHING
"""
UNMARK = """
DELETE FROM favourites WHERE tenant = %(tenant)s AND request_id = ANY(%(ids)s::uuid[])
"""
EXISTING = """
SELECT id::text FROM requests
WHERE id = ANY(%(ids)s::uuid[]) AND tenant = %(tenant)s
"""
SEVERAL = f"""
SELECT {COLUMNS} FROM {SOURCE}
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.tenant = %(tenant)s
ORDER BY r.id DESC
"""
AMONG = """
SELECT request_id::text FROM favourites
WHERE tenant = %(tenant)s AND request_id = ANY(%(ids)s::uuid[])
"""
INDEX_NEW_WORDS = "SELECT gin_clean_pending_list('request_words_found')"


class PostgresGallery:
    """Implements ``Gallery``."""

    def __init__(self, database: Database, reads: FairReads) -> None:
        self._database = database
        self._reads = reads
        self._history = History(reads)
        self._search = Search(reads)
        self.count_by_day = self._history.count_by_day
        self.shortened_inputs = self._history.shortened_inputs
        self.whole_input = self._history.whole_input
        links = ShareLinks(database)
        self.share = links.share
        self.shares = links.shares
        self.revoke_share = links.revoke_share
        self.find_shared = links.find_shared

    async def search(self, request_filter: RequestFilter, limit: int) -> FoundRequests:
        if request_filter.tenant is not None and (
            request_filter.words is not None or request_filter.favourites
        ):
            return await self._search.search(request_filter.tenant, request_filter, limit)
        requests = await self._history.page(
            request_filter.tenant,
            states=request_filter.states,
            endpoints=request_filter.endpoints,
            since=request_filter.since,
            until=request_filter.until,
            before=request_filter.before,
            limit=limit + 1,
        )
        shown = requests[:limit]
        return FoundRequests(shown, shown[-1].id if len(requests) > limit else None)

    async def several(self, tenant: str, request_ids: Sequence[str]) -> Sequence[Request]:
        params = {"tenant": tenant, "ids": [known_id(request_id) for request_id in request_ids]}
        rows = await self._reads.rows(tenant, SEVERAL, params)
        return [request_from_row(row).request for row in rows]

    async def favourites_among(self, tenant: str, request_ids: Sequence[str]) -> frozenset[str]:
        params = {"tenant": tenant, "ids": [known_id(request_id) for request_id in request_ids]}
        return frozenset(id_ for (id_,) in await self._database.rows(AMONG, params))

    async def set_favourites(
        self, tenant: str, request_ids: Sequence[str], *, favourite: bool
    ) -> frozenset[str]:
        params = {"tenant": tenant, "ids": sorted(map(known_id, request_ids))}
        await self._database.rows(MARK if favourite else UNMARK, params)
        return frozenset(id_ for (id_,) in await self._database.rows(EXISTING, params))

    async def index_new_words(self) -> None:
        """Move the words of new requests into the index. Until then a search reads their list."""
        await self._database.rows(INDEX_NEW_WORDS)
