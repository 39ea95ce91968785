"""The queue in memory: the same port and the same behaviour as PostgreSQL's, nothing durable.

One process and one event loop. Time comes from the clock; whatever depends on it is looked at
whenever somebody calls, and a few dozen times a second while somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from serve_app.domain.errors import Cancelled, Overloaded, RequestNotFound
from serve_app.domain.lease import (
    Ask,
    Demand,
    Finish,
    Held,
    Lease,
    Presence,
    ReplicaStage,
    Report,
    ReportReply,
    Signal,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock, LeaseTerms, Liveness
from serve_app.domain.request import (
    CancelVerdict,
    LogLine,
    NewRequest,
    Request,
    State,
    Waiting,
    WaitReason,
)
from serve_app.queue import wording
from serve_app.queue.limits import QueueLimits

T = TypeVar("T")
LOOK_S = 0.02
NEVER_S = 1e9


class Row:
    """A stored request with what the port does not show of it."""

    def __init__(self, request: Request, place: int, start_within_s: float | None) -> None:
        self.request = request
        self.place = place
        within = NEVER_S if start_within_s is None else start_within_s
        self.start_by = request.created_at + timedelta(seconds=within)
        self.actor_id = ""
        self.confirmed = False
        self.lease_until = 0.0  # monotonic
        self.unconfirmed = 0
        self.ended: dict[int, str] = {}  # attempt → the act that ended it
        self.log: list[LogLine] = []


class FakeQueue:
    def __init__(
        self, clock: Clock, terms: LeaseTerms, limits: QueueLimits, liveness: Liveness
    ) -> None:
        self._clock = clock
        self._terms = terms
        self._limits = limits
        self._liveness = liveness
        self._rows: dict[str, Row] = {}
        self._presence: dict[str, Presence] = {}
        self._slots: dict[str, int] = {}
        self._told: dict[tuple[str, Signal], float] = {}
        self._last_busy: dict[str, float] = {}
        self._wake = asyncio.Event()
        self.usage: list[str] = []  # ids of requests, one line each

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to undo."""

    # What clients do

    async def submit(self, new: NewRequest) -> Request:
        await self._look()
        self._refuse_past_caps(new.tenant)
        request = Request(
            id=new.id,
            tenant=new.tenant,
            endpoint=new.endpoint,
            pool=new.pool,
            state=State.QUEUED,
            input=dict(new.input),
            priority=new.priority,
            alone=new.alone,
            attempt=0,
            failures=0,
            created_at=self._clock.now(),
        )
        row = Row(request, len(self._rows), new.start_within_s)
        self._rows[new.id] = row
        self._line(row, wording.QUEUED)
        for warning in new.warnings:
            self._line(row, warning, "WARNING")
        self._changed()
        return request

    async def get(self, tenant: str, request_id: str) -> Request:
        await self._look()
        return self._row(tenant, request_id).request

    async def wait(self, tenant: str, request_id: str, timeout_s: float) -> Request:
        row = self._row(tenant, request_id)
        await self._until(lambda: row.request.state.final or None, timeout_s)
        return row.request

    async def changed(
        self, tenant: str, request_id: str, timeout_s: float, since: Request | None = None
    ) -> Request:
        row = self._row(tenant, request_id)
        seen = _visible(since or row.request)

        def differs() -> bool | None:
            return row.request.state.final or _visible(row.request) != seen or None

        await self._until(differs, timeout_s)
        return row.request

    async def waiting(self, request: Request) -> Waiting:
        await self._look()
        order = [row.request.id for row in self._queue(request.pool)]
        position = order.index(request.id) if request.id in order else 0
        here = [each for each in self._presence.values() if each.pool == request.pool]
        ready = [each.detail for each in here if each.stage is ReplicaStage.READY]
        if ready:
            return Waiting(position, WaitReason.BUSY, next(filter(None, ready), ""))
        for each in here:
            if each.stage is ReplicaStage.STARTING:
                return Waiting(position, WaitReason.COLD_START, each.detail)
        return Waiting(position, WaitReason.NO_REPLICA)

    async def cancel(self, tenant: str, request_id: str) -> CancelVerdict:
        await self._look()
        row = self._row(tenant, request_id)
        if row.request.state.final:
            return CancelVerdict.ALREADY_FINAL
        if row.request.state is State.QUEUED:
            row.request = replace(row.request, cancel_requested=True)
            self._end(row, State.CANCELLED, wording.cancelled())
            return CancelVerdict.CANCELLED
        if not row.request.cancel_requested:
            row.request = replace(row.request, cancel_requested=True)
            self._line(row, wording.CANCEL_REQUESTED)
            self._changed()
        return CancelVerdict.REQUESTED

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[State] = (),
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        await self._look()
        own = (row.request for row in self._rows.values() if row.request.tenant == tenant)
        chosen = [
            request
            for request in sorted(own, key=lambda each: each.id, reverse=True)
            if (not states or request.state in states) and (before is None or request.id < before)
        ]
        return chosen[:limit]

    async def demand(self) -> Mapping[str, Demand]:
        await self._look()
        pools = {row.request.pool for row in self._rows.values()}
        pools |= {presence.pool for presence in self._presence.values()}
        return {pool: self._demand(pool) for pool in pools}

    async def log(self, request_id: str, level: str, message: str) -> None:
        if request_id in self._rows:
            self._line(self._rows[request_id], message, level)

    async def lines(self, tenant: str, request_id: str) -> Sequence[LogLine]:
        return tuple(self._row(tenant, request_id).log)

    # What replicas do

    async def announce(self, presence: Presence) -> None:
        self._presence[presence.replica_id] = presence

    async def ask(self, ask: Ask) -> Work:
        self._presence[ask.replica_id] = Presence(
            ask.replica_id, ask.actor_id, ask.pool, ReplicaStage.READY, ask.detail
        )
        self._slots[ask.pool] = max(ask.slots + len(ask.held), self._slots.get(ask.pool, 1))
        work = await self._until(lambda: self._work(ask), self._limits.ask_wait_s)
        return work or Work()

    async def report(self, report: Report) -> ReportReply:
        if (known := self._presence.get(report.replica_id)) is not None:
            self._presence[report.replica_id] = replace(known, detail=report.detail)
        await self._look()
        cancelled: list[Held] = []
        fenced: list[Held] = []
        for held in report.renewals:
            row = self._holder(held)
            if row is None:
                fenced.append(held)
                continue
            row.confirmed = True
            row.start_by = datetime.max.replace(tzinfo=UTC)
            row.lease_until = self._clock.monotonic() + self._limits.lease_s
            if row.request.cancel_requested:
                cancelled.append(held)
        for held, progress in report.progress:
            row = self._holder(held)
            if row is not None and row.request.progress != progress:
                row.request = replace(row.request, progress=progress)
                self._changed()
        return ReportReply(tuple(cancelled), tuple(fenced))

    async def finish(self, finish: Finish) -> Verdict:
        await self._look()
        row = self._holder(finish.held)
        if row is None:
            return self._repeated(finish.held, "finish")
        row.ended[finish.held.attempt] = "finish"
        failure = finish.outcome.failure
        if failure is None:
            self._end(row, State.SUCCEEDED, finish.outcome)
        elif failure.code == Cancelled.code:
            self._end(row, State.CANCELLED, finish.outcome)
        elif not failure.retryable:
            self._end(row, State.FAILED, finish.outcome)
        else:
            self._failed_once(row, finish.outcome, f"Failed: {failure.message}")
        return Verdict.ACCEPTED

    async def hand_back(self, held: Held, replica_id: str, reason: str) -> Verdict:
        await self._look()
        row = self._holder(held)
        if row is None:
            return self._repeated(held, "hand_back")
        row.ended[held.attempt] = "hand_back"
        self._requeue(row, f"Replica {replica_id} handed it back: {reason}")
        return Verdict.ACCEPTED

    # How it works

    def _work(self, ask: Ask) -> Work | None:
        signals = tuple(signal for signal in self._signals(ask))
        leases: list[Lease] = []
        for row in self._queue(ask.pool):
            if len(leases) == ask.slots:
                break
            lease = self._lease(row, ask)
            if lease is not None:
                leases.append(lease)
        return Work(tuple(leases), signals) if leases or signals else None

    def _signals(self, ask: Ask) -> list[Signal]:
        found: list[Signal] = []
        for held in ask.held:
            row = self._holder(held)
            if row is None:
                found.append(Signal(SignalKind.FENCED, held))
            elif row.request.cancel_requested:
                found.append(Signal(SignalKind.CANCEL, held))
        # The same signal at most once a second, or a replica that is slow to stop would spin.
        now = self._clock.monotonic()
        fresh = [s for s in found if now - self._told.get((ask.replica_id, s), -9.0) >= 1.0]
        self._told.update({(ask.replica_id, signal): now for signal in fresh})
        return fresh

    def _lease(self, row: Row, ask: Ask) -> Lease | None:
        endpoint = self._terms.endpoint(row.request.endpoint)
        if endpoint is None:
            self._end(row, State.FAILED, wording.endpoint_gone(row.request.endpoint))
            return None
        attempt = row.request.attempt + 1
        row.actor_id, row.confirmed = ask.actor_id, False
        row.lease_until = self._clock.monotonic() + self._limits.first_lease_s
        row.request = replace(
            row.request,
            state=State.RUNNING,
            attempt=attempt,
            replica_id=ask.replica_id,
            started_at=self._clock.now(),
            progress=None,
        )
        self._line(row, f"Attempt {attempt} started on replica {ask.replica_id}.")
        self._changed()
        request = row.request
        return Lease(
            request_id=request.id,
            attempt=attempt,
            expires_in_s=self._limits.first_lease_s,
            endpoint=endpoint,
            input=request.input,
            upload_tickets=self._terms.tickets(request.id, attempt, endpoint, request.input),
            priority=request.priority,
            alone=request.alone,
            files_url=self._terms.files_url,
        )

    async def _look(self) -> None:
        """End what time or death has ended."""
        now = self._clock.monotonic()
        running = [row for row in self._rows.values() if row.request.state is State.RUNNING]
        holders = [row.actor_id for row in running]
        dead = await self._liveness.dead(holders)
        bygone = await self._liveness.bygone(holders)
        for row in running:
            if row.request.state is not State.RUNNING:
                continue
            if row.actor_id in bygone:
                self._lost(row, stopped=True)
            elif row.lease_until < now or row.actor_id in dead:
                self._lost(row)
        for row in self._rows.values():
            if row.request.state is State.QUEUED and row.start_by <= self._clock.now():
                self._end(row, State.EXPIRED, wording.expired())

    def _lost(self, row: Row, *, stopped: bool = False) -> None:
        row.ended[row.request.attempt] = "stopped" if stopped else "lost"
        if row.confirmed and not stopped:
            row.request = replace(row.request, alone=True)
            poison = wording.ended_its_replica(row.request.failures + 1)
            self._failed_once(row, poison, f"Replica {row.request.replica_id} died")
            return
        row.unconfirmed += 1
        if row.unconfirmed >= self._limits.max_unconfirmed and not row.request.cancel_requested:
            self._end(row, State.FAILED, wording.never_confirmed(row.unconfirmed))
        else:
            self._requeue(row, f"Replica {row.request.replica_id} never confirmed it")

    def _failed_once(self, row: Row, outcome: Outcome, why: str) -> None:
        row.request = replace(row.request, failures=row.request.failures + 1)
        spent = row.request.failures >= self._limits.max_failures
        if spent and not row.request.cancel_requested:
            self._end(row, State.FAILED, outcome)
        else:
            self._requeue(row, why)

    def _requeue(self, row: Row, why: str) -> None:
        if row.request.cancel_requested:
            self._end(row, State.CANCELLED, wording.cancelled())
            return
        row.request = replace(row.request, state=State.QUEUED, replica_id=None, progress=None)
        self._line(row, f"{why}; queued again.")
        self._changed()

    def _end(self, row: Row, state: State, outcome: Outcome) -> None:
        row.request = replace(
            row.request,
            state=state,
            outcome=outcome,
            finished_at=self._clock.now(),
            progress=None,
        )
        self.usage.append(row.request.id)
        self._line(row, outcome.failure.message if outcome.failure else wording.SUCCEEDED)
        self._changed()

    def _queue(self, pool: str) -> list[Row]:
        """Its queued requests in the order in which they are leased."""
        queued = [
            row
            for row in self._rows.values()
            if row.request.pool == pool and row.request.state is State.QUEUED
        ]
        return sorted(queued, key=lambda row: (-row.request.priority, row.place))

    def _demand(self, pool: str) -> Demand:
        queued = self._queue(pool)
        running = sum(
            row.request.pool == pool and row.request.state is State.RUNNING
            for row in self._rows.values()
        )
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
        )

    def _refuse_past_caps(self, tenant: str) -> None:
        queued = [row for row in self._rows.values() if row.request.state is State.QUEUED]
        if len(queued) >= self._limits.max_waiting:
            raise Overloaded(f"{len(queued)} requests are waiting already.", retry_after_s=1.0)
        own = sum(row.request.tenant == tenant for row in queued)
        if own >= self._limits.max_waiting_per_tenant:
            raise Overloaded(f"{own} of your requests are waiting already.", retry_after_s=1.0)

    def _row(self, tenant: str, request_id: str) -> Row:
        row = self._rows.get(request_id)
        if row is None or row.request.tenant != tenant:
            raise RequestNotFound(f"There is no request {request_id}.")
        return row

    def _holder(self, held: Held) -> Row | None:
        row = self._rows.get(held.request_id)
        if row is None or row.request.state is not State.RUNNING:
            return None
        return row if row.request.attempt == held.attempt else None

    def _repeated(self, held: Held, act: str) -> Verdict:
        row = self._rows.get(held.request_id)
        if row is not None and row.ended.get(held.attempt) == act:
            return Verdict.ACCEPTED
        return Verdict.FENCED

    def _line(self, row: Row, message: str, level: str = "INFO") -> None:
        row.log.append(LogLine(len(row.log) + 1, self._clock.now(), level, message))

    def _changed(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def _until(self, found: Callable[[], T | None], timeout_s: float) -> T | None:
        """The first thing that ``found`` finds, or None after ``timeout_s``."""
        end = self._clock.monotonic() + timeout_s
        while True:
            await self._look()
            wake = self._wake
            value = found()
            left_s = end - self._clock.monotonic()
            if value is not None or left_s <= 0:
                return value
            # Not `wait_for`: it swallows a cancellation that comes together with the wakeup.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await wake.wait()


def _visible(request: Request) -> tuple[Any, ...]:
    return request.state, request.attempt, request.progress, request.cancel_requested
