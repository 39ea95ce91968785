"""What this process knows of requests, and who waits here for a change of them.

An answer from memory is at most ``FRESH_S`` old: what this process changes it knows at once, what
another changes comes by NOTIFY, and what is being looked at is read again in one batch each second,
so a lost NOTIFY costs only that.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.errors import RequestNotFound
from serve_app.domain.lease import Held
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress
from serve_app.domain.request import Request, State
from serve_app.queue.batcher import Batcher
from serve_app.queue.database import Database
from serve_app.queue.rows import COLUMNS, SOURCE, Stored, known_id, stored

READ = f"SELECT {COLUMNS} FROM {SOURCE} WHERE r.id = ANY(%(ids)s::uuid[]) AND r.deleted_at IS NULL"

FRESH_S = 1.0
FINAL_FRESH_S = 60.0  # a final request never changes, but it may be deleted
CAPACITY = 20_000
LOOKED_AT_S = 3.0
POLL_BATCH = 500


class Entry:
    __slots__ = ("checked", "stored", "used")

    def __init__(self, stored: Stored, now: float) -> None:
        self.stored = stored
        self.checked = now  # when it was known to be so
        self.used = now


class Watch:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._futures: dict[str, set[asyncio.Future[None]]] = {}
        self._looked_at: dict[str, float] = {}
        self._reads: Batcher[str, Stored | None] = Batcher(self._read)
        self._refreshes: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        for task in self._refreshes:
            task.cancel()
        await asyncio.gather(*self._refreshes, return_exceptions=True)
        await self._reads.aclose()

    # Looking

    async def get(self, tenant: str, request_id: str) -> Request:
        """``RequestNotFound`` also for another tenant's."""
        id_ = known_id(request_id)
        now = self._clock.monotonic()
        self._looked_at[id_] = now
        entry = self._entries.get(id_)
        if entry is not None:
            lasts_s = FINAL_FRESH_S if entry.stored.request.state.final else FRESH_S
            if now - entry.checked <= lasts_s:
                return _own(tenant, request_id, entry.stored)
        return _own(tenant, request_id, await self._reads.put(id_))

    async def until(
        self, tenant: str, request_id: str, timeout_s: float, enough: Callable[[Request], bool]
    ) -> Request:
        """The request as soon as ``enough`` says so, or after ``timeout_s`` as it is then."""
        id_ = known_id(request_id)
        end = self._clock.monotonic() + timeout_s
        while True:
            request = await self.get(tenant, request_id)
            left_s = end - self._clock.monotonic()
            if left_s <= 0 or enough(request):
                return request
            await self._stirred(id_, left_s)

    # Learning

    def learn(self, news: Stored) -> None:
        """A request as it was read or written; older than what is known, it is passed over."""
        id_, now = news.request.id, self._clock.monotonic()
        entry = self._entries.get(id_)
        if entry is None:
            self._entries[id_] = Entry(news, now)
            if len(self._entries) > CAPACITY:
                self._entries.popitem(last=False)
            self._wake(id_)
            return
        if news.version < entry.stored.version:
            return
        before, entry.stored, entry.checked = entry.stored.request, news, now
        self._entries.move_to_end(id_)
        if visible(before) != visible(news.request):
            self._wake(id_)

    def learn_new(self, request: Request, version: int) -> None:
        """One that this process has just stored."""
        id_ = known_id(request.id)
        self.learn(Stored(request if id_ == request.id else replace(request, id=id_), version))

    def learn_change(self, request_id: str, version: int, **changes: Any) -> None:
        """A commit by this process made it so. Where the state before is not known, it is read."""
        entry = self._entries.get(request_id)
        if entry is not None and entry.stored.version == version - 1:
            changed = replace(entry.stored.request, events=version, **changes)
            self.learn(Stored(changed, version))
        else:
            self.doubt([request_id])

    def learn_progress(self, held: Held, progress: Progress, preview_step: int = 0) -> None:
        """``preview_step``: of a new preview; 0: the last one is still the newest."""
        entry = self._entries.get(held.request_id)
        if entry is None:
            return
        request = entry.stored.request
        holds = request.state is State.RUNNING and request.attempt == held.attempt
        preview_step = preview_step or request.preview_step
        news = replace(request, progress=progress, preview_step=preview_step)
        if holds and visible(news) != visible(request):
            self.learn(Stored(news, entry.stored.version))

    def doubt(self, request_ids: Iterable[str]) -> None:
        """They may have changed: read before the next answer; at once where somebody waits."""
        waited: list[str] = []
        for id_ in request_ids:
            entry = self._entries.get(id_)
            if entry is not None:
                entry.checked = float("-inf")
            if id_ in self._futures:
                waited.append(id_)
        if waited:
            self._spawn_refresh(waited)

    def doubt_all(self) -> None:
        """Notifications may have been lost."""
        self.doubt([*self._entries])

    async def poll(self) -> None:
        """Read again what is being looked at."""
        now = self._clock.monotonic()
        self._looked_at = {id_: at for id_, at in self._looked_at.items() if now - at < LOOKED_AT_S}
        due = [id_ for id_ in {*self._futures, *self._looked_at} if self._due(id_, now)]
        for start in range(0, len(due), POLL_BATCH):
            await self._read(due[start : start + POLL_BATCH])

    # How it works

    def _due(self, id_: str, now: float) -> bool:
        entry = self._entries.get(id_)
        if entry is None:
            return id_ in self._futures
        return not entry.stored.request.state.final and now - entry.checked > FRESH_S / 2

    async def _read(self, ids: Sequence[str]) -> Sequence[Stored | None]:
        rows = await self._database.rows(READ, {"ids": list(dict.fromkeys(ids))})
        found = {each.request.id: each for each in map(stored, rows)}
        for each in found.values():
            self.learn(each)
        for id_ in ids:
            if id_ not in found:
                self._entries.pop(id_, None)
        return [self._newest(id_, found.get(id_)) for id_ in ids]

    def _newest(self, id_: str, read: Stored | None) -> Stored | None:
        entry = self._entries.get(id_)
        return entry.stored if entry is not None else read

    async def _stirred(self, id_: str, timeout_s: float) -> None:
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
        await asyncio.gather(*(self._reads.put(id_) for id_ in ids), return_exceptions=True)


def _end_wait(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def visible(request: Request) -> tuple[Any, ...]:
    """What a client can see change."""
    return (
        request.state,
        request.attempt,
        request.progress,
        request.preview_step,
        request.events,
    )


def _own(tenant: str, request_id: str, found: Stored | None) -> Request:
    if found is None or found.request.tenant != tenant:
        raise RequestNotFound(f"There is no request {request_id}.")
    return found.request
