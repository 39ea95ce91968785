"""Tenants whose requests callers follow: what changed since each caller last asked.

A caller that is slow keeps one entry per request, not one per change, and at most ``MOST``: beyond
these it is told that some are missing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager, suppress

from serve_app.domain.request import ChangedRequest, Changes, Request

MOST = 1000


class Follower:
    """Implements ``FollowedChanges``."""

    def __init__(self) -> None:
        self._changed: dict[str, ChangedRequest] = {}
        self._complete = True
        self._news = asyncio.Event()

    async def next(self, timeout_s: float) -> Changes:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        changes = Changes(tuple(self._changed.values()), self._complete)
        self._changed, self._complete = {}, True
        self._news.clear()
        return changes

    def note(self, change: ChangedRequest) -> None:
        if len(self._changed) < MOST:
            self._changed[change.id] = change
        else:
            self._complete = False
        self._news.set()

    def miss(self) -> None:
        self._complete = False
        self._news.set()


class FollowedTenants:
    """Followers by tenant. Owned by one event loop."""

    def __init__(self) -> None:
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)

    def __bool__(self) -> bool:
        return bool(self._followers)

    @contextmanager
    def follow(self, tenant: str) -> Generator[Follower]:
        follower = Follower()
        self._followers[tenant].add(follower)
        try:
            yield follower
        finally:
            self._followers[tenant].discard(follower)
            if not self._followers[tenant]:
                del self._followers[tenant]

    def notify_followers(self, request: Request, *, deleted: bool = False) -> None:
        """Tell the followers of the tenant that this request is new, changed its state, or was
        deleted."""
        if (followers := self._followers.get(request.tenant)) is None:
            return
        state = None if deleted else request.state
        for follower in followers:
            follower.note(ChangedRequest(request.id, request.endpoint, state))

    def notify_missed(self) -> None:
        """Tell all followers that changes may have been missed."""
        for followers in self._followers.values():
            for follower in followers:
                follower.miss()
