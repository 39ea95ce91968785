"""What clients do with the queue in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.budgets import BudgetLeft
from serve_app.domain.billing.price import NOTHING, made_by_frame
from serve_app.domain.errors import NotFound, Overloaded, TooLarge
from serve_app.domain.lease import Demand, LeaseKey, ReplicaStage
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.progress import Preview
from serve_app.domain.request import (
    ChangedRequest,
    Changes,
    LogLine,
    NewRequest,
    Priority,
    Request,
    RequestEstimate,
    State,
    Waiting,
    WaitReason,
)
from serve_app.domain.workflows.definition import POOL
from serve_app.queue.state.counters import UNKNOWN_RETRY_S
from serve_app.queue.state.preview_cache import WATCH_TTL_S
from serve_app.queue.state.request_cache import FOLLOWED_S
from serve_app.queue.state.waits import coalesced_waiting, waits_as_suspect, why_it_waits
from serve_app.queue.store import messages
from serve_app.queue.transactions.deletion import step_of_active, still_active
from serve_app.queue.transactions.insert import EncodedInput
from tests.fakes.queue_row import Row
from tests.fakes.queue_rows import QueueRows
from tests.fakes.repeats import reusing


class FakeFollower:
    """Implements ``FollowedChanges`` by comparing all requests of the tenant."""

    def __init__(
        self,
        requests: Callable[[], Mapping[str, Request]],
        until: Callable[[Callable[[], bool | None], float], Awaitable[bool | None]],
    ) -> None:
        self._requests = requests
        self._until = until
        self._seen = {**requests()}

    async def next(self, timeout_s: float) -> Changes:
        await self._until(lambda: bool(self._changed()) or None, timeout_s)
        changed = self._changed()
        self._seen = {**self._requests()}
        return Changes(changed, complete=True)

    def _changed(self) -> tuple[ChangedRequest, ...]:
        now, before = self._requests(), self._seen
        gone = [
            ChangedRequest(id_, request.endpoint, None)
            for id_, request in before.items()
            if id_ not in now
        ]
        changed = [
            ChangedRequest(id_, request.endpoint, request.state)
            for id_, request in now.items()
            if id_ not in before or before[id_].state is not request.state
        ]
        return (*gone, *changed)


class ClientSide(QueueRows):
    """Submits, waits, cancels, looks."""

    async def submit(self, new: NewRequest, most_queued: int | None = None) -> Request:
        new.require_validated()
        await self._look()
        if (earlier := self._repeats.of(new)) is not None:
            return self._rows[earlier].request
        if (reused := self._repeats.reusable(new, self._rows.values())) is not None:
            return self._reuse(new, reused)
        self.operations.admit(new.endpoint)
        self._refuse_past_caps(new.tenant, new.endpoint)
        waiting = self._startable_at_once(new.pool)
        if most_queued is not None and waiting >= most_queued:
            message = f"{waiting} requests are waiting, and you allow {most_queued}."
            raise Overloaded(message, UNKNOWN_RETRY_S, "client_limit")
        self._refuse_past_bytes(new)
        reserved, allowance = self._quotas.admit(new)
        request = new.as_queued(self._clock.now())
        request = replace(request, input=dict(EncodedInput(new.input).summary))
        row = Row(request, len(self._rows), new, self._lanes.add(new))
        row.reserved = reserved
        self._rows[new.id] = row
        leader = self._repeats.leader(new, self._rows.values())
        if leader is not None:
            row.request = replace(row.request, follows=leader)
        else:
            self.shadows.note_request(new)
        self._repeats.learn(new)
        self._line(row, messages.QUEUED + self._retries(row))
        for warning in new.warnings:
            self._line(row, warning, "WARNING")
        if leader is not None:
            self._line(row, messages.follows(leader))
        self._changed()
        return replace(row.request, allowance=allowance)

    async def find_earlier(self, new: NewRequest) -> Request | None:
        await self._look()
        earlier = self._repeats.of(new) or self._repeats.take_undelivered(new)
        return self._rows[earlier].request if earlier else None

    async def record_undelivered(self, new: NewRequest, request_id: str) -> None:
        self._repeats.note_undelivered(new, request_id)

    async def get(self, tenant: str, request_id: str) -> Request:
        await self._look()
        row = self._row(tenant, request_id)
        row.followed_until = self._clock.monotonic() + FOLLOWED_S
        return row.request

    async def current(self, tenant: str, request_id: str) -> Request:
        return await self.get(tenant, request_id)

    async def wait(self, tenant: str, request_id: str, timeout_s: float) -> Request:
        row = self._row(tenant, request_id)
        await self._until(lambda: row.request.state.final or None, timeout_s)
        return row.request

    async def wait_for_change(
        self, tenant: str, request_id: str, timeout_s: float, since: Request | None = None
    ) -> Request:
        row = self._row(tenant, request_id)
        seen = _visible(since or row.request)

        def differs() -> bool | None:
            return row.request.state.final or _visible(row.request) != seen or None

        row.followed_until = float("inf")
        try:
            await self._until(differs, timeout_s)
        finally:
            row.followed_until = self._clock.monotonic() + FOLLOWED_S
        return row.request

    @contextmanager
    def follow(self, tenant: str) -> Iterator[FakeFollower]:
        yield FakeFollower(partial(self._all_of, tenant), self._until)

    def _all_of(self, tenant: str) -> Mapping[str, Request]:
        return {id_: r.request for id_, r in self._rows.items() if r.request.tenant == tenant}

    async def preview(self, tenant: str, request_id: str) -> Preview | None:
        await self._look()
        row = self._row(tenant, request_id)
        if not row.request.previews:
            raise NotFound(messages.NO_PREVIEWS)
        if row.request.state is not State.RUNNING:
            return None
        if row.request.progress is not None:
            row.watched_until = self._clock.monotonic() + WATCH_TTL_S
        return row.preview if row.request.preview_step else None

    async def waiting(self, request: Request) -> Waiting:
        await self._look()
        if request.follows is not None:
            return await self._following(self._rows[request.follows].request)
        return self._waiting(request, self._queue(request.pool))

    async def estimate(self, new: NewRequest) -> RequestEstimate:
        await self._look()
        request = new.as_queued(self._clock.now())
        row = Row(request, len(self._rows), new, self._lanes.add(new))
        waiting = self._waiting(request, [*self._queue(new.pool), row])
        return RequestEstimate(waiting, self._lanes.takes_s(request))

    def usual_s(self, endpoint: str, pool: str) -> float | None:
        return self._lanes.usual_s(endpoint, pool)

    def _waiting(self, request: Request, rows: Sequence[Row]) -> Waiting:
        order = [start.queued.id for start in self._lanes.order(request.pool, rows)]
        position = order.index(request.id) if request.id in order else 0
        waiting = self._reason(request, position)
        if waiting.reason is WaitReason.PAUSED:
            return waiting
        starts_s = self._lanes.until_start_s(
            request, rows, self._running(), self._free(request.pool)
        )
        if starts_s is None:
            return waiting
        starts_at = self._clock.now() + timedelta(seconds=starts_s)
        takes_s = self._lanes.takes_s(request)
        ends_at = None if takes_s is None else starts_at + timedelta(seconds=takes_s)
        return replace(waiting, starts_at=starts_at, ends_at=ends_at)

    async def _following(self, leader: Request) -> Waiting:
        if leader.state is State.QUEUED:
            return coalesced_waiting(leader, await self.waiting(leader), None)
        return coalesced_waiting(leader, None, await self.ends_at(leader))

    async def ends_at(self, request: Request) -> datetime | None:
        now = self._clock.now()
        elapsed_s = (now - (request.started_at or now)).total_seconds()
        takes_s = self._lanes.takes_s(request, elapsed_s)
        return None if takes_s is None else now + timedelta(seconds=takes_s)

    def _reason(self, request: Request, position: int) -> Waiting:
        if self.operations.is_paused(request.endpoint):
            return Waiting(position, WaitReason.PAUSED)
        limited = self._lanes.limit(request, self._running())
        if limited:
            return Waiting(position, WaitReason.LIMIT, limited)
        here = [presence for presence in self._presence.values() if presence.pool == request.pool]
        why = waits_as_suspect(request, why_it_waits(request.endpoint, here))
        return replace(why, position=position)

    async def page(
        self,
        tenant: str | None,
        *,
        states: Sequence[State] = (),
        endpoints: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        await self._look()
        own = (row.request for row in self._rows.values() if tenant in (None, row.request.tenant))
        chosen = [
            request
            for request in sorted(own, key=lambda candidate: candidate.id, reverse=True)
            if (not states or request.state in states)
            and (before is None or request.id < before)
            and (not endpoints or request.endpoint in endpoints)
            and (since is None or request.created_at >= since)
            and (until is None or request.created_at < until)
        ]
        return chosen[:limit]

    async def open_sessions(self, tenant: str, pool: str) -> int:
        await self._look()
        return sum(
            request.priority is Priority.REALTIME
            and (request.tenant, request.pool) == (tenant, pool)
            and request.state in (State.QUEUED, State.RUNNING)
            for request in self._requests()
        )

    async def budget_left(self, tenant: str) -> BudgetLeft | None:
        quota = self._limits.quota_of(tenant)
        if quota is None or quota.budget is None:
            return None
        return quota.budget_left(quota.budget.amount - self._spent(tenant), self._clock.now())

    async def record_frame(
        self, session: LeaseKey, request_id: str, state: State, usage: Usage
    ) -> None:
        if request_id not in self.usage and session.request_id in self._rows:
            request = self._rows[session.request_id].request
            output = made_by_frame(usage) if state is State.SUCCEEDED else NOTHING
            self.ledger.note(request_id, request, self._clock.now(), usage, output)
            self._lanes.pays(request, usage.run_s)

    async def delete(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> Sequence[str]:
        await self._look()
        request = self._row(tenant, request_id).request
        if not request.state.final:
            raise still_active(request.state)
        workflow = self.workflows.runs.parent_of(request.id)
        if workflow in self._rows and not self._rows[workflow].request.state.final:
            raise step_of_active(workflow)
        self.workflows.runs.forget(request.id)
        if actor is not None:
            self.operations.note(actor, "request.delete", request.id, {"tenant": tenant})
        self._repeats.note_deleted(request.id)
        self.outbox.on_delete(request.id)
        del self._rows[request.id]
        maker = request.reuses or request.id
        shared = any(maker in (candidate.id, candidate.reuses) for candidate in self._requests())
        own = Outcome() if shared or request.pool == POOL else request.outcome or Outcome()
        keys = sorted(file.key for file in (*own.artifacts, *own.thumbnails))
        return [key for key in keys if not is_elsewhere(key)]

    async def demand(self) -> Mapping[str, Demand]:
        await self._look()
        pools = {row.request.pool for row in self._rows.values()}
        pools |= {presence.pool for presence in self._presence.values()}
        return {pool: self._demand(pool) for pool in pools}

    async def log(self, request_id: str, *lines: tuple[str, str]) -> None:
        if request_id in self._rows:
            for level, message in lines:
                self._line(self._rows[request_id], message, level)

    async def lines(self, tenant: str, request_id: str, after: int = 0) -> Sequence[LogLine]:
        return tuple(self._row(tenant, request_id).log[after:])

    def _reuse(self, new: NewRequest, earlier: Request) -> Request:
        now = self._clock.now()
        request = reusing(new, earlier, now)
        row = self._rows[new.id] = Row(request, len(self._rows), new, 0.0)
        self._repeats.learn(new)
        self._counted(row)
        for warning in new.warnings:
            self._line(row, warning, "WARNING")
        self._line(row, messages.reuse(earlier.id))
        self.outbox.on_end(row)
        return row.request

    def _free(self, pool: str) -> list[float]:
        """For each slot of the pool, seconds until it is free."""
        slots = sum(
            count
            for id_, count in self._slots_of.items()
            if self._presence[id_].pool == pool and self._presence[id_].stage is ReplicaStage.READY
        )
        now = self._clock.now()
        busy = [
            self._lanes.takes_s(request, (now - (request.started_at or now)).total_seconds()) or 1.0
            for request in self._running()
            if request.pool == pool
        ]
        return [*sorted(busy)[-slots:], *[0.0] * (slots - len(busy))] if slots else []

    def _demand(self, pool: str) -> Demand:
        queued = self._queue(pool)
        running = sum(
            row.request.pool == pool and row.request.state is State.RUNNING
            for row in self._rows.values()
        )
        queued = [
            row
            for row in queued
            if not self.operations.is_paused(row.request.endpoint)
            and row.request.tenant not in self._limits.disabled
        ]
        now = self._clock.monotonic()
        if queued or running:
            self._last_busy[pool] = now
        oldest = min((row.request.created_at for row in queued), default=self._clock.now())
        return Demand(
            queued=len(queued),
            running=running,
            slots=self._slots.get(pool, 1),
            oldest_wait_s=(self._clock.now() - oldest).total_seconds(),
            idle_s=now - self._last_busy.setdefault(pool, now),
            queued_s=sum(self._lanes.typical_s(row.request) for row in queued),
        )

    def _startable_at_once(self, pool: str) -> int:
        """Queued requests of a pool, without those beyond what their tenants may run at once."""
        waiting = Counter(
            row.request.tenant
            for row in self._queue(pool)
            if not self.operations.is_paused(row.request.endpoint)
        )
        limits = {tenant: self._limits.running_of_tenant(tenant) for tenant in waiting}
        return sum(
            n if (most := limits[tenant]) is None else min(n, most) for tenant, n in waiting.items()
        )

    def _refuse_past_caps(self, tenant: str, endpoint: str) -> None:
        queued = [row for row in self._rows.values() if row.request.state is State.QUEUED]
        if len(queued) >= self._limits.max_waiting:
            message = f"{len(queued)} requests are waiting already."
            raise Overloaded(message, UNKNOWN_RETRY_S, "queue_full")
        own = sum(row.request.tenant == tenant for row in queued)
        if own >= self._limits.waiting_of_tenant(tenant):
            message = f"{own} of your requests are waiting already."
            raise Overloaded(message, UNKNOWN_RETRY_S, "tenant_limit")
        most = self._limits.waiting_of_endpoint(endpoint)
        same = sum(row.request.endpoint == endpoint for row in queued)
        if most is not None and same >= most:
            message = f"{same} requests are waiting for {endpoint} already."
            raise Overloaded(message, UNKNOWN_RETRY_S, "endpoint_limit")

    def _refuse_past_bytes(self, new: NewRequest) -> None:
        most = self._limits.waiting_bytes_of_tenant(new.tenant)
        size = EncodedInput(new.input).large_bytes
        waiting = sum(
            EncodedInput(row.input).large_bytes
            for row in self._rows.values()
            if row.request.state is State.QUEUED and row.request.tenant == new.tenant
        )
        if size > most:
            raise TooLarge(messages.too_large_to_wait(size, most))
        if size and waiting + size > most:
            message = messages.too_many_waiting_bytes(size, waiting, most)
            raise Overloaded(message, UNKNOWN_RETRY_S, "tenant_bytes_limit")


def _visible(request: Request) -> tuple[Any, ...]:
    return (
        request.state,
        request.attempt,
        request.progress,
        request.preview_step,
        request.events,
    )
