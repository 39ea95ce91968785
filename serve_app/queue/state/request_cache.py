"""Cache of requests in this process, with the callers that wait for a change.

An answer from memory is at most ``FRESH_S`` old. Changes by this process are known at once, and
changes by others arrive by NOTIFY. Requests that clients look at are also read again in one batch
each second, so a lost NOTIFY costs only that delay.

Requests that were neither read nor changed for ``KEPT_S`` are forgotten: an answer needs them to be
read again anyway. Memory is also bounded in bytes, because a request may hold 64 KiB of input and a
long outcome: beyond the budget, those read or changed longest ago are forgotten first.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.batcher import Batcher
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress
from serve_app.domain.request import Request, State
from serve_app.postgres.database import Database
from serve_app.queue.state.followed_tenants import FollowedTenants
from serve_app.queue.store.rows import COLUMNS, SOURCE, StoredRequest, known_id, request_from_row

READ = f"""
-- name: read_requests
SELECT {COLUMNS} FROM {SOURCE} WHERE r.id = ANY(%(ids)s::uuid[])
"""

FRESH_S = 1.0
OUTDATED = float("-inf")  # a request that is read before the next answer was checked then
FINAL_FRESH_S = KEPT_S = 60.0  # a final request never changes, but it may be deleted
REQUEST_BYTES = 3072
"""Bytes of a cached request without its input and outcome (measured: 2.2 KiB)."""
LOOKED_AT_S = 3.0
FOLLOWED_S = 5.0
"""How long after a client's read its request counts as followed: clients poll more often."""

FOLLOW = """
-- name: follow_requests
UPDATE progress SET followed_until = now() + make_interval(secs => %(followed_s)s)
WHERE request_id = ANY(%(ids)s::uuid[]) AND (followed_until IS NULL
    OR followed_until < now() + make_interval(secs => 0.5 * %(followed_s)s))
"""
POLL_BATCH = 500


class CachedRequest:
    __slots__ = ("checked", "size", "stored", "updated")

    def __init__(self, stored: StoredRequest, now: float) -> None:
        self.stored = stored
        self.updated = now  # time at which it was read or changed last
        self.checked = now  # the same, or OUTDATED
        self.size = size_of(stored.request)  # bytes

    def replace(self, stored: StoredRequest, now: float) -> None:
        before, self.stored = self.stored, stored
        self.updated = self.checked = now
        old, new = before.request, stored.request
        # A version that is read again brings equal values in new objects.
        if stored.version != before.version and (
            old.input is not new.input or old.outcome is not new.outcome
        ):
            self.size = size_of(new)


def size_of(request: Request) -> int:
    """Bytes that a request takes in memory, rather too many than too few."""
    outcome = request.outcome
    return REQUEST_BYTES + _size_of(request.input) + (0 if outcome is None else _size(outcome))


def _size(outcome: Outcome) -> int:
    failure = outcome.failure
    texts = 0 if failure is None else _size_of(failure.message)
    files = len(outcome.artifacts) + len(outcome.thumbnails)
    return REQUEST_BYTES + REQUEST_BYTES * files + texts + _size_of(outcome.output)


def _size_of(value: object) -> int:
    """Bytes of a JSON value. Values that occur in several places count once for each."""
    total, left = 0, [value]
    while left:
        item = left.pop()
        total += sys.getsizeof(item)
        if isinstance(item, Mapping):
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, list | tuple):
            left.extend(item)
    return total


class RequestCache:
    """Cached requests and their waiting callers. ``max_bytes``: memory of the cached requests."""

    def __init__(self, database: Database, clock: Clock, max_bytes: int) -> None:
        self._database = database
        self._clock = clock
        self._max_bytes = max_bytes
        self.size = 0  # bytes of the cached requests
        self._entries: OrderedDict[str, CachedRequest] = OrderedDict()
        self._futures: dict[str, set[asyncio.Future[None]]] = {}
        self._looked_at: dict[str, float] = {}
        self._followed_at: dict[str, float] = {}
        self._followers: Counter[str] = Counter()  # callers that wait for a change of progress
        self._reads: Batcher[str, StoredRequest | None] = Batcher(self._read)
        self._announced: set[str] = set()  # changed, and their state is not known yet
        self.tenants = FollowedTenants()
        self._refreshes: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        for task in self._refreshes:
            task.cancel()
        await asyncio.gather(*self._refreshes, return_exceptions=True)
        await self._reads.aclose()

    # Reading

    async def get(self, tenant: str, request_id: str) -> Request:
        """The request. Raises ``RequestNotFound`` also for another tenant's request."""
        self._followed_at[known_id(request_id)] = self._clock.monotonic()
        return await self._get(tenant, request_id)

    async def current(self, tenant: str, request_id: str) -> Request:
        """The request as it is stored now; otherwise as ``get``."""
        return _check_owner(tenant, request_id, await self._reads.call(known_id(request_id)))

    async def _get(self, tenant: str, request_id: str) -> Request:
        id_ = known_id(request_id)
        now = self._clock.monotonic()
        self._looked_at[id_] = now
        entry = self._entries.get(id_)
        if entry is not None:
            lasts_s = FINAL_FRESH_S if entry.stored.request.state.final else FRESH_S
            if now - entry.checked <= lasts_s:
                return _check_owner(tenant, request_id, entry.stored)
        return _check_owner(tenant, request_id, await self._reads.call(id_))

    async def wait(self, tenant: str, request_id: str, timeout_s: float) -> Request:
        """The request as soon as its state is final, or after ``timeout_s`` as it is then."""
        return await self._until(tenant, request_id, timeout_s, _is_final)

    async def wait_for_change(
        self, tenant: str, request_id: str, timeout_s: float, since: Request | None = None
    ) -> Request:
        """The request at its next visible change after ``since``, or after ``timeout_s``."""
        seen = visible(since or await self._get(tenant, request_id))
        id_ = known_id(request_id)
        self._followers[id_] += 1
        try:
            return await self._until(
                tenant,
                request_id,
                timeout_s,
                lambda request: request.state.final or visible(request) != seen,
            )
        finally:
            self._followed_at[id_] = self._clock.monotonic()
            self._followers[id_] -= 1
            if not self._followers[id_]:
                del self._followers[id_]

    def is_followed(self, request_id: str) -> bool:
        """True if a client of this process wants to see the request's progress. One that only waits
        for its end does not.
        """
        at = self._followed_at.get(request_id, float("-inf"))
        return request_id in self._followers or self._clock.monotonic() - at < FOLLOWED_S

    async def _until(
        self, tenant: str, request_id: str, timeout_s: float, enough: Callable[[Request], bool]
    ) -> Request:
        """Return the request as soon as ``enough`` is true of it, or after ``timeout_s`` as it is
        then.
        """
        id_ = known_id(request_id)
        end = self._clock.monotonic() + timeout_s
        while True:
            request = await self._get(tenant, request_id)
            left_s = end - self._clock.monotonic()
            if left_s <= 0 or enough(request):
                return request
            await self._changed_or_late(id_, left_s)

    # Updating

    def update(self, read: StoredRequest) -> None:
        """Store a request as it was read or written. It is ignored if it is older than the cached
        one.
        """
        id_, now = read.request.id, self._clock.monotonic()
        entry = self._entries.get(id_)
        if entry is None:
            self._entries[id_] = entry = CachedRequest(read, now)
            self.size += entry.size
            self._keep_to_budget()
            self._wake(id_)
            if id_ in self._announced:
                self.tenants.notify_followers(read.request)
            return
        if read.version < entry.stored.version:
            return
        before = entry.stored.request
        self.size -= entry.size
        entry.replace(read, now)
        self.size += entry.size
        self._entries.move_to_end(id_)
        self._keep_to_budget()
        if visible(before) != visible(read.request):
            self._wake(id_)
        if before.state is not read.request.state or id_ in self._announced:
            self.tenants.notify_followers(read.request)

    def add_new(self, request: Request, version: int) -> None:
        """Store a request that this process has just inserted."""
        id_ = known_id(request.id)
        self._announced.add(id_)
        self.update(
            StoredRequest(request if id_ == request.id else replace(request, id=id_), version)
        )
        self._announced.discard(id_)

    def apply_change(self, request_id: str, version: int, **changes: Any) -> None:
        """Apply a change committed by this process. If the state before it is not cached, the
        request is read again.
        """
        entry = self._entries.get(request_id)
        if entry is not None and entry.stored.version == version - 1:
            changed = replace(entry.stored.request, events=version, **changes)
            self.update(StoredRequest(changed, version))
        else:
            self.invalidate([request_id])

    def update_progress(
        self, lease_key: LeaseKey, progress: Progress, preview_step: int = 0
    ) -> None:
        """Apply progress. ``preview_step``: step of a new preview; 0 if the last one is still the
        newest.
        """
        entry = self._entries.get(lease_key.request_id)
        if entry is None:
            return
        request = entry.stored.request
        holds = request.state is State.RUNNING and request.attempt == lease_key.attempt
        preview_step = preview_step or request.preview_step
        changed = replace(request, progress=progress, preview_step=preview_step)
        if holds and visible(changed) != visible(request):
            outdated = entry.checked == OUTDATED
            self.update(StoredRequest(changed, entry.stored.version))
            if outdated:  # the attempt may have ended since the report was written
                entry.checked = OUTDATED

    def invalidate(self, request_ids: Iterable[str]) -> None:
        """Invalidate requests that may have changed. They are read before the next answer, or at
        once if a caller waits for one of them or follows a tenant.
        """
        waited: list[str] = []
        for id_ in request_ids:
            entry = self._entries.get(id_)
            if entry is not None:
                entry.checked = OUTDATED
            if self.tenants:
                self._announced.add(id_)
            if self.tenants or id_ in self._futures:
                waited.append(id_)
        if waited:
            self._spawn_refresh(waited)

    def invalidate_all(self) -> None:
        """Invalidate all requests, because notifications may have been lost."""
        self.invalidate([*self._entries])
        self.tenants.notify_missed()

    async def refresh_watched(self) -> None:
        """Read again the requests that clients look at, and note in the database which running ones
        they follow: their replicas may report to another process.
        """
        await self._note_followed()
        now = self._clock.monotonic()
        self._looked_at = {id_: at for id_, at in self._looked_at.items() if now - at < LOOKED_AT_S}
        due = [id_ for id_ in {*self._futures, *self._looked_at} if self._is_due(id_, now)]
        for start in range(0, len(due), POLL_BATCH):
            await self._read(due[start : start + POLL_BATCH])
        self._keep_to_age(now)

    # Implementation

    async def _note_followed(self) -> None:
        self._followed_at = {
            id_: at for id_, at in self._followed_at.items() if self.is_followed(id_)
        }
        running = [
            id_
            for id_ in {*self._followers, *self._followed_at}
            if (entry := self._entries.get(id_)) is not None
            and entry.stored.request.state is State.RUNNING
        ]
        if running:
            await self._database.rows(FOLLOW, {"ids": running, "followed_s": FOLLOWED_S})

    def _keep_to_age(self, now: float) -> None:
        while self._entries:
            id_, oldest = next(iter(self._entries.items()))
            if now - oldest.updated <= KEPT_S:
                return
            self._forget(id_)

    def _keep_to_budget(self) -> None:
        while self.size > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, id_: str) -> None:
        entry = self._entries.pop(id_, None)
        if entry is not None:
            self.size -= entry.size

    def _is_due(self, id_: str, now: float) -> bool:
        entry = self._entries.get(id_)
        if entry is None:
            return id_ in self._futures
        return not entry.stored.request.state.final and now - entry.checked > FRESH_S / 2

    async def _read(self, ids: Sequence[str]) -> Sequence[StoredRequest | None]:
        rows = await self._database.rows(READ, {"ids": list(dict.fromkeys(ids))})
        records = {item.request.id: item for item in map(request_from_row, rows)}
        for record in records.values():
            self.update(record)
        for id_ in ids:
            if id_ not in records:
                self._tell_gone(id_)
                self._forget(id_)
                self._wake(id_)  # who waits for it learns that it is gone
        return [self._newest(id_, records.get(id_)) for id_ in ids]

    def _tell_gone(self, id_: str) -> None:
        entry = self._entries.get(id_)
        if entry is not None:
            self.tenants.notify_followers(entry.stored.request, deleted=True)
        elif id_ in self._announced:
            self.tenants.notify_missed()  # its tenant is not known

    def _newest(self, id_: str, read: StoredRequest | None) -> StoredRequest | None:
        entry = self._entries.get(id_)
        return entry.stored if entry is not None else read

    async def _changed_or_late(self, id_: str, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        futures = self._futures.setdefault(id_, set())
        futures.add(future)
        timer = loop.call_later(timeout_s, _end_wait, future)
        try:
            await future
        finally:
            timer.cancel()
            futures.discard(future)
            if not futures and self._futures.get(id_) is futures:
                del self._futures[id_]

    def _wake(self, id_: str) -> None:
        for future in self._futures.pop(id_, ()):
            _end_wait(future)

    def _spawn_refresh(self, ids: Sequence[str]) -> None:
        task = asyncio.create_task(self._refresh(ids))
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    async def _refresh(self, ids: Sequence[str]) -> None:
        read = await asyncio.gather(*map(self._reads.call, ids), return_exceptions=True)
        self._announced.difference_update(ids)
        if any(isinstance(result, BaseException) for result in read):
            self.tenants.notify_missed()


def _end_wait(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _is_final(request: Request) -> bool:
    return request.state.final


def visible(request: Request) -> tuple[Any, ...]:
    """The fields whose change a client can see."""
    return (
        request.state,
        request.attempt,
        request.progress,
        request.preview_step,
        request.events,
    )


def _check_owner(tenant: str, request_id: str, stored_request: StoredRequest | None) -> Request:
    if stored_request is None or stored_request.request.tenant != tenant:
        raise RequestNotFound(f"There is no request {request_id}.")
    return stored_request.request
