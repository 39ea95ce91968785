"""Search in prompts and among favourites, with a bounded time however many requests there are.

Frequent words are found by a walk backwards through the newest requests, and rare ones by the index
of words. A search for words that are in many requests, but in few of the newest, walks on from page
to page: each page is short, and names where the next one begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.request import FoundRequests, Request, RequestFilter
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.store.rows import COLUMNS, SOURCE, request_from_row
from serve_app.queue.store.words import words_query
from serve_app.queue.transactions.history import bounds_of

FIRST_WALK = 2000  # rows that are looked at before the index is asked
LONG_WALK = 10_000  # rows of a page, if the index has too many
MAX_MATCHES = 2000  # of the index
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

# Looked up one by one: the planner would join with the whole table.
_MATCHES = """
CROSS JOIN LATERAL (
    SELECT FROM requests r WHERE r.id = x.id AND r.tenant = %(tenant)s
        AND r.id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        AND r.id >= coalesce(%(first)s::uuid, '00000000-0000-0000-0000-000000000000')
        AND r.state = ANY(%(states)s::text[])
        AND (%(endpoints)s::text[] IS NULL OR r.endpoint = ANY(%(endpoints)s::text[]))
        AND r.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
        AND r.created_at < coalesce(%(until)s::timestamptz, 'infinity')
    LIMIT 1) fits
"""
# The tenant as a range, for the reason that is said in history.py.
_WALK = """
WITH walked AS MATERIALIZED (
    SELECT w.request_id AS id{column} FROM {table} w
    WHERE w.tenant >= %(tenant)s AND w.tenant <= %(tenant)s
        AND w.request_id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        AND w.request_id >= coalesce(%(first)s::uuid, '00000000-0000-0000-0000-000000000000')
    ORDER BY w.tenant DESC, w.request_id DESC LIMIT %(walk)s
)
SELECT (SELECT count(*) FROM walked), (SELECT id FROM walked ORDER BY id LIMIT 1)::text, ARRAY(
    SELECT x.id::text FROM walked x {matches} {where}
    ORDER BY x.id DESC LIMIT %(limit)s)
"""
WALK_WORDS = _WALK.format(
    column=", w.words",
    table="request_words",
    matches=_MATCHES,
    where="WHERE x.words @@ %(query)s::text::tsquery",
)
WALK_FAVOURITES = _WALK.format(column="", table="favourites", matches=_MATCHES, where="")
WALK_FAVOURITES_WITH_WORDS = _WALK.format(
    column="",
    table="favourites",
    matches=_MATCHES,
    where="""WHERE (
        SELECT w.words @@ %(query)s::text::tsquery FROM request_words w
        WHERE w.tenant = %(tenant)s AND w.request_id = x.id)""",
)
INDEXED = f"""
WITH matched AS MATERIALIZED (
    SELECT id FROM requests_with_words(%(query)s::text::tsquery, %(most)s) AS found(id)
)
SELECT (SELECT count(*) FROM matched), NULL, ARRAY(
    SELECT x.id::text FROM matched x {_MATCHES}
    ORDER BY x.id DESC LIMIT %(limit)s)
"""
READ = f"SELECT {COLUMNS} FROM {SOURCE} WHERE r.id = ANY(%(ids)s::uuid[]) ORDER BY r.id DESC"


class Search:
    """Search in the requests of one tenant."""

    def __init__(self, reads: FairReads) -> None:
        self._reads = reads

    async def search(self, tenant: str, request_filter: RequestFilter, limit: int) -> FoundRequests:
        """Requests with the words of ``request_filter``, among its favourites, or both."""
        params = bounds_of(request_filter) | {"tenant": tenant, "limit": limit + 1}
        query = None if request_filter.words is None else words_query(tenant, request_filter.words)
        if query is None and not request_filter.favourites:
            return FoundRequests((), None)  # there are no words in what was searched for
        if request_filter.favourites:
            statement = WALK_FAVOURITES if query is None else WALK_FAVOURITES_WITH_WORDS
            return await self._walk(tenant, statement, params | {"query": query}, LONG_WALK)
        params |= {"query": query, "most": MAX_MATCHES}
        first = await self._walk(tenant, WALK_WORDS, params, FIRST_WALK)
        if len(first.requests) >= limit or first.next_before is None:
            return first
        ((matches, _, ids),) = await self._reads.rows(tenant, INDEXED, params)
        if matches < MAX_MATCHES:
            return await self._page(tenant, ids, limit, None)
        return await self._walk(tenant, WALK_WORDS, params, LONG_WALK)

    async def _walk(
        self, tenant: str, statement: str, params: Mapping[str, Any], most: int
    ) -> FoundRequests:
        """Page of at most ``most`` rows of a table, backwards."""
        ((walked, last, ids),) = await self._reads.rows(tenant, statement, {**params, "walk": most})
        return await self._page(tenant, ids, params["limit"] - 1, last if walked == most else None)

    async def _page(
        self, tenant: str, ids: Sequence[str], limit: int, rest: str | None
    ) -> FoundRequests:
        """Page of the first ``limit`` ids. ``rest``: where the search goes on after all of them."""
        shown = ids[:limit]
        following = shown[-1] if len(ids) > limit else rest
        requests: list[Request] = []
        if shown:
            rows = await self._reads.rows(tenant, READ, {"ids": list(shown)})
            requests = [request_from_row(row).request for row in rows]
        return FoundRequests(requests, following)
