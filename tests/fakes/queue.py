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

from serve_app.domain.errors import (
    Cancelled,
    Expired,
    NotFound,
    Overloaded,
    ReplicaDied,
    RequestNotFound,
)
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
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Clock, LeaseTerms, Liveness
from serve_app.domain.progress import Preview
from serve_app.domain.request import (
    CancelVerdict,
    Forgetting,
    LogLine,
    NewRequest,
    Priority,
    Request,
    State,
    Waiting,
    WaitReason,
)
from serve_app.domain.retries import MOST_FAILURES, Cause
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.queue import wording
from serve_app.queue.deletion import still_active
from serve_app.queue.followers import waiting_for
from serve_app.queue.limits import QueueLimits
from serve_app.queue.order import Start
from serve_app.queue.previews import WATCHED_S
from serve_app.queue.snapshots import is_of
from tests.fakes.fair_lanes import FairLanes
from tests.fakes.ledger import FakeLedger
from tests.fakes.operations import FakeOperations
from tests.fakes.outbox import FakeOutbox
from tests.fakes.queue_row import Row, forgetting, suspect
from tests.fakes.repeats import FakeRepeats, reusing

T = TypeVar("T")
LOOK_S = 0.02


class FakeQueue:
    def __init__(
        self, clock: Clock, terms: LeaseTerms, limits: QueueLimits, liveness: Liveness
    ) -> None:
        self._clock = clock
        self._terms = terms
        self._limits = limits
        self._liveness = liveness
        self._rows: dict[str, Row] = {}
        self._repeats = FakeRepeats(clock)
        self._presence: dict[str, Presence] = {}
        self._slots: dict[str, int] = {}
        self._slots_of: dict[str, int] = {}  # by replica
        self._lanes = FairLanes(limits)
        self._asking: list[Ask] = []
        self._told: dict[tuple[str, Signal], float] = {}
        self._last_busy: dict[str, float] = {}
        self._wake = asyncio.Event()
        self.operations = FakeOperations(clock, self._rows, self._end_by_hand, self._changed)
        self.outbox = FakeOutbox(clock, self._rows, self.operations.note)
        self.ledger = FakeLedger(self._rows)

    @property
    def usage(self) -> list[str]:
        """Ids of requests and frames, one line each."""
        return [line.id for line in self.ledger.lines]

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to undo."""

    # What clients do

    async def submit(self, new: NewRequest) -> Request:
        await self._look()
        if (earlier := self._repeats.of(new)) is not None:
            return self._rows[earlier].request
        if (found := self._repeats.reusable(new, self._rows.values())) is not None:
            return self._reuse(new, found)
        self.operations.admit(new.endpoint)
        self._refuse_past_caps(new.tenant, new.endpoint)
        request = Request(
            id=new.id,
            tenant=new.tenant,
            endpoint=new.endpoint,
            pool=new.pool,
            state=State.QUEUED,
            input=dict(new.input),
            priority=new.priority,
            alone=new.alone,
            previews=new.previews,
            attempt=0,
            failures=0,
            created_at=self._clock.now(),
            work=new.work,
            forgetting=None if new.store_io else Forgetting.INPUT,
            retries_left=new.retries,
        )
        if new.end_within_s is not None:
            end_by = request.created_at + timedelta(seconds=new.end_within_s)
            request = replace(request, end_by=end_by)
        row = Row(request, len(self._rows), new, self._lanes.enter(new))
        self._rows[new.id] = row
        leader = self._repeats.leader(new, self._rows.values())
        if leader is not None:
            row.request = replace(row.request, follows=leader)
        self._repeats.learn(new)
        self._line(row, wording.QUEUED + self._retries(row))
        for warning in new.warnings:
            self._line(row, warning, "WARNING")
        if leader is not None:
            self._line(row, wording.follows(leader))
        self._changed()
        return row.request

    async def repeated(self, new: NewRequest) -> Request | None:
        await self._look()
        earlier = self._repeats.of(new) or self._repeats.take_undelivered(new)
        return self._rows[earlier].request if earlier else None

    async def undelivered(self, new: NewRequest, request_id: str) -> None:
        self._repeats.note_undelivered(new, request_id)

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

    async def preview(self, tenant: str, request_id: str) -> Preview | None:
        await self._look()
        row = self._row(tenant, request_id)
        if not row.request.previews:
            raise NotFound(wording.NO_PREVIEWS)
        if row.request.state is not State.RUNNING:
            raise NotFound(wording.PREVIEWS_WHILE_RUNNING)
        if row.request.progress is not None:
            row.watched_until = self._clock.monotonic() + WATCHED_S
        return row.preview if row.request.preview_step else None

    async def waiting(self, request: Request) -> Waiting:
        await self._look()
        if request.follows is not None:
            return await self._following(self._rows[request.follows].request)
        rows = self._queue(request.pool)
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
            return waiting_for(leader, await self.waiting(leader), None)
        return waiting_for(leader, None, await self.ends_at(leader))

    async def ends_at(self, request: Request) -> datetime | None:
        now = self._clock.now()
        elapsed_s = (now - (request.started_at or now)).total_seconds()
        takes_s = self._lanes.takes_s(request, elapsed_s)
        return None if takes_s is None else now + timedelta(seconds=takes_s)

    def _reason(self, request: Request, position: int) -> Waiting:
        if self.operations.paused(request.endpoint):
            return Waiting(position, WaitReason.PAUSED)
        limited = self._lanes.limit(request, self._running())
        if limited:
            return Waiting(position, WaitReason.LIMIT, limited)
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
        endpoint: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        await self._look()
        own = (row.request for row in self._rows.values() if row.request.tenant == tenant)
        chosen = [
            request
            for request in sorted(own, key=lambda each: each.id, reverse=True)
            if (not states or request.state in states)
            and (before is None or request.id < before)
            and endpoint in (None, request.endpoint)
            and (since is None or request.created_at >= since)
            and (until is None or request.created_at < until)
        ]
        return chosen[:limit]

    async def drew(self, session: Held, request_id: str, state: State, usage: Usage) -> None:
        if request_id not in self.usage and session.request_id in self._rows:
            request = self._rows[session.request_id].request
            self.ledger.note(request_id, request, self._clock.now(), usage)
            self._lanes.pays(request, usage.run_s)

    async def delete(self, tenant: str, request_id: str) -> Sequence[str]:
        await self._look()
        request = self._row(tenant, request_id).request
        if not request.state.final:
            raise still_active(request.state)
        self._repeats.deleted(request.id)
        self.outbox.deleted(request.id)
        del self._rows[request.id]
        maker = request.reuses or request.id
        shared = any(maker in (each.id, each.reuses) for each in self._requests())
        own = Outcome() if shared else request.outcome or Outcome()
        return sorted(artifact.key for artifact in own.artifacts)

    async def demand(self) -> Mapping[str, Demand]:
        await self._look()
        pools = {row.request.pool for row in self._rows.values()}
        pools |= {presence.pool for presence in self._presence.values()}
        return {pool: self._demand(pool) for pool in pools}

    async def log(self, request_id: str, level: str, message: str) -> None:
        if request_id in self._rows:
            self._line(self._rows[request_id], message, level)

    async def lines(self, tenant: str, request_id: str, after: int = 0) -> Sequence[LogLine]:
        return tuple(self._row(tenant, request_id).log[after:])

    # What replicas do

    async def announce(self, presence: Presence) -> None:
        self._presence[presence.replica_id] = presence

    async def ask(self, ask: Ask) -> Work:
        self._presence[ask.replica_id] = Presence(
            ask.replica_id, ask.actor_id, ask.pool, ReplicaStage.READY, ask.detail
        )
        self._slots_of[ask.replica_id] = max(1, ask.slots + len(ask.held))
        self._slots[ask.pool] = max(ask.slots + len(ask.held), self._slots.get(ask.pool, 1))
        self._asking.append(ask)
        try:
            work = await self._until(lambda: self._work(ask), self._limits.ask_wait_s)
        finally:
            if ask in self._asking:
                self._asking.remove(ask)
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
            row.start_by = row.request.end_by or datetime.max.replace(tzinfo=UTC)
            row.lease_until = self._clock.monotonic() + self._limits.lease_s
            if row.request.cancel_requested:
                cancelled.append(held)
        previews = dict(report.previews)
        for held, progress in report.progress:
            if (row := self._holder(held)) is None:
                continue
            step = row.request.preview_step
            if (preview := previews.get(held)) is not None:
                row.preview, step = preview, preview.step
            if row.request.progress != progress or row.request.preview_step != step:
                row.request = replace(row.request, progress=progress, preview_step=step)
                self._changed()
        for held, snapshot in report.snapshots:
            self._keep(held, snapshot)
        wanted = [held for held in report.wants_tickets if self._holder(held) is not None]
        tickets = tuple((held, self._terms.snapshot_ticket(held)) for held in wanted)
        return ReportReply(tuple(cancelled), tuple(fenced), tickets, self._watched(report))

    async def finish(self, finish: Finish) -> Verdict:
        await self._look()
        row = self._holder(finish.held)
        if row is None:
            return self._repeated(finish.held, "finish")
        row.ended[finish.held.attempt] = "finish"
        failure = finish.outcome.failure
        self._settle(row, finish.outcome.usage.run_s, succeeded=failure is None)
        if failure is None:
            self._end(row, State.SUCCEEDED, finish.outcome)
        elif failure.code == Cancelled.code:
            self._end(row, State.CANCELLED, finish.outcome)
        elif failure.code == Expired.code:
            self._end(row, State.EXPIRED, finish.outcome)
        elif not failure.retryable:
            self._end(row, State.FAILED, finish.outcome)
        else:
            died = failure.code == ReplicaDied.code
            cause = Cause.CONNECTION_ERROR if died else Cause.SERVER_ERROR
            self._failed_once(row, cause, finish.outcome, failure.message)
        return Verdict.ACCEPTED

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        await self._look()
        row = self._holder(held)
        if row is None:
            return self._repeated(held, "hand_back")
        if snapshot is not None:
            self._keep(held, snapshot)
        row.ended[held.attempt] = "hand_back"
        self._settle(row)
        self._requeue(row, f"Replica {replica_id} handed it back: {reason}")
        return Verdict.ACCEPTED

    # How it works

    def _reuse(self, new: NewRequest, earlier: Request) -> Request:
        now = self._clock.now()
        request = reusing(new, earlier, now)
        row = self._rows[new.id] = Row(request, len(self._rows), new, 0.0)
        self._repeats.learn(new)
        self._counted(row)
        for warning in new.warnings:
            self._line(row, warning, "WARNING")
        self._line(row, wording.reused(earlier.id))
        self.outbox.ended(row)
        return row.request

    def _work(self, ask: Ask) -> Work | None:
        if ask not in self._asking:
            return Work()  # its replica is dead
        signals = tuple(signal for signal in self._signals(ask))
        leases: list[Lease] = []
        while len(leases) < ask.slots:
            start = self._next(ask)
            if start is None:
                break
            self._lanes.leased(ask.pool, start)
            lease = self._lease(self._rows[start.queued.id], ask)
            if lease is not None:
                leases.append(lease)
        return Work(tuple(leases), signals) if leases or signals else None

    def _watched(self, report: Report) -> tuple[Held, ...]:
        now = self._clock.monotonic()
        return tuple(
            held
            for held in report.renewals
            if (row := self._holder(held)) is not None and row.watched_until > now
        )

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
        row.leased_at = self._clock.monotonic()
        row.lease_until = self._clock.monotonic() + self._limits.first_lease_s
        row.request = replace(
            row.request,
            state=State.RUNNING,
            attempt=attempt,
            replica_id=ask.replica_id,
            started_at=self._clock.now(),
            progress=None,
            preview_step=0,
        )
        snapshot = row.request.snapshot
        told = "" if snapshot is None else f", from the snapshot at step {snapshot.step}"
        self._line(row, f"Attempt {attempt} started on replica {ask.replica_id}{told}.")
        self._changed()
        request = row.request
        return Lease(
            request_id=request.id,
            attempt=attempt,
            expires_in_s=self._limits.first_lease_s,
            endpoint=endpoint,
            input=request.input,
            upload_tickets=self._terms.tickets(request.id, attempt, endpoint, request.input)
            if request.priority is not Priority.REALTIME
            else (),
            priority=request.priority,
            deadline_s=_remaining_s(request),
            alone=request.alone,
            snapshot_url=None if snapshot is None else self._terms.snapshot_url(snapshot.key),
            files_url=self._terms.files_url,
        )

    async def _look(self) -> None:
        """End what time or death has ended, and forget what is due."""
        now = self._clock.monotonic()
        running = [row for row in self._rows.values() if row.request.state is State.RUNNING]
        holders = [*(row.actor_id for row in running), *(ask.actor_id for ask in self._asking)]
        dead = await self._liveness.dead(holders)
        bygone = await self._liveness.bygone(holders)
        self._asking = [ask for ask in self._asking if ask.actor_id not in dead | bygone]
        for row in running:
            if row.request.state is not State.RUNNING:
                continue
            if row.actor_id in bygone:
                self._lost(row, Cause.CONNECTION_ERROR, stopped=True)
            elif row.actor_id in dead:
                self._lost(row, Cause.CONNECTION_ERROR)
            elif row.lease_until < now:
                self._lost(row, Cause.TIMEOUT)
        for row in self._rows.values():
            row.request = forgetting(row, self._clock.now())
            if row.request.state is State.QUEUED and row.start_by <= self._clock.now():
                in_all = row.request.end_by is not None and row.request.end_by <= self._clock.now()
                if not in_all and self._has_started(row.request):
                    continue
                self._end(
                    row, State.EXPIRED, wording.not_in_time() if in_all else wording.expired()
                )

    def _lost(self, row: Row, cause: Cause, *, stopped: bool = False) -> None:
        row.ended[row.request.attempt] = "stopped" if stopped else "lost"
        self._settle(row)
        if row.confirmed and not stopped:
            row.request = replace(row.request, alone=True)
            often = row.request.failures + 1
            spent = often >= self._limits.max_failures
            outcome = wording.ended_its_replica(often) if spent else wording.no_retry_left()
            self._failed_once(row, cause, outcome, f"Replica {row.request.replica_id} died")
            return
        row.unconfirmed += 1
        if row.unconfirmed >= self._limits.max_unconfirmed and not row.request.cancel_requested:
            self._end(row, State.FAILED, wording.never_confirmed(row.unconfirmed))
        else:
            self._requeue(row, f"Replica {row.request.replica_id} never confirmed it")

    def _failed_once(self, row: Row, cause: Cause, outcome: Outcome, why: str) -> None:
        left = row.request.retries_left
        row.request = replace(row.request, failures=row.request.failures + 1)
        if left is None:
            spent = row.request.failures >= self._limits.max_failures
        else:
            spent = not left.left(cause) or row.request.failures >= MOST_FAILURES
            after = left.after(cause) if left.left(cause) else left
            row.request = replace(row.request, retries_left=after)
        if spent and not row.request.cancel_requested:
            self._end(row, State.FAILED, outcome)
        else:
            self._requeue(row, why, self._retries(row))

    def _retries(self, row: Row) -> str:
        left = row.request.retries_left
        if left is None:
            return ""
        told = ", ".join(f"{each.replace('_', ' ')} {left.left(each)}" for each in Cause)
        return f" Retries left: {told}."

    def _requeue(self, row: Row, why: str, more: str = "") -> None:
        if row.request.cancel_requested:
            self._end(row, State.CANCELLED, wording.cancelled())
            return
        row.request = replace(
            row.request, state=State.QUEUED, replica_id=None, progress=None, preview_step=0
        )
        self._line(row, f"{why}; queued again.{more}")
        self._changed()

    def _end(self, row: Row, state: State, outcome: Outcome) -> None:
        row.request = replace(
            row.request,
            state=state,
            outcome=outcome,
            finished_at=self._clock.now(),
            progress=None,
            snapshot=None,
            preview_step=0,
            follows=None,
        )
        self._counted(row)
        self._line(row, outcome.failure.message if outcome.failure else wording.SUCCEEDED)
        self.outbox.ended(row)
        self._settle_followers(row.request)
        self._changed()

    def _counted(self, row: Row) -> None:
        request = row.request
        usage = request.outcome.usage if request.outcome else Usage()
        self.ledger.note(request.id, request, request.finished_at or self._clock.now(), usage)

    def _has_started(self, request: Request) -> bool:
        """What it waits for runs."""
        followed = request.follows and self._rows[request.follows].request
        return bool(followed) and followed.state is State.RUNNING

    def _settle_followers(self, leader: Request) -> None:
        """They have its outcome, or the first of them leads the others."""
        following = [row for row in self._rows.values() if row.request.follows == leader.id]
        if leader.state is State.SUCCEEDED:
            for row in following:
                outcome = replace(leader.outcome or Outcome(), usage=Usage())
                self._give(row, leader.id, outcome)
            return
        following.sort(key=lambda row: (row.ranked_at, row.place))
        for row in following[1:]:
            row.request = replace(row.request, follows=following[0].request.id)
        for heir in following[:1]:
            heir.request = replace(heir.request, follows=None)
            if heir.start_by <= self._clock.now():
                heir.start_by = heir.request.end_by or datetime.max.replace(tzinfo=UTC)
            self._line(heir, wording.GOES_ON)

    def _give(self, row: Row, leader: str, outcome: Outcome) -> None:
        now = self._clock.now()
        row.request = replace(
            row.request,
            state=State.SUCCEEDED,
            outcome=outcome,
            follows=None,
            reuses=leader,
            started_at=now,
            finished_at=now,
        )
        self._repeats.given(row.request.id)
        self._counted(row)
        self._line(row, wording.reused(leader))
        self.outbox.ended(row)
        self._changed()

    def _end_by_hand(self, row: Row, failure: Outcome | None) -> None:
        if row.request.state is State.RUNNING:
            row.ended[row.request.attempt] = "by_hand"
            self._settle(row)
        if failure is None:
            self._requeue(row, wording.REQUEUED)
        else:
            self._end(row, State.FAILED, failure)

    def _settle(self, row: Row, run_s: float = 0.0, *, succeeded: bool = False) -> None:
        took_s = run_s or self._clock.monotonic() - row.leased_at
        self._lanes.ended(row, took_s, succeeded=succeeded)

    def _next(self, ask: Ask) -> Start | None:
        """Who is leased to it next."""
        may = (
            start
            for start in self._lanes.order(
                ask.pool, self._queue(ask.pool), ask.hot, self._clock.now()
            )
            if not self.operations.paused(start.queued.endpoint)
            and not self._hot_elsewhere(start.queued.endpoint, ask)
            and not (suspect(self._rows[start.queued.id].request) and self._runs_suspect(ask))
            and not self._lanes.limit(self._rows[start.queued.id].request, self._running())
        )
        return next(may, None)

    def _runs_suspect(self, ask: Ask) -> bool:
        return any(suspect(each) for each in self._running() if each.replica_id == ask.replica_id)

    def _free(self, pool: str) -> list[float]:
        """For each slot of the pool, seconds until it is free."""
        slots = sum(
            count
            for id_, count in self._slots_of.items()
            if self._presence[id_].pool == pool and self._presence[id_].stage is ReplicaStage.READY
        )
        now = self._clock.now()
        busy = [
            self._lanes.takes_s(each, (now - (each.started_at or now)).total_seconds()) or 1.0
            for each in self._running()
            if each.pool == pool
        ]
        return [*sorted(busy)[-slots:], *[0.0] * (slots - len(busy))] if slots else []

    def _hot_elsewhere(self, endpoint: str, ask: Ask) -> bool:
        """Another that waits has its weights loaded."""
        return endpoint not in ask.hot and any(
            endpoint in other.hot and other.slots and other.pool == ask.pool
            for other in self._asking
        )

    def _requests(self) -> list[Request]:
        return [row.request for row in self._rows.values()]

    def _running(self) -> list[Request]:
        return [row.request for row in self._rows.values() if row.request.state is State.RUNNING]

    def _queue(self, pool: str) -> list[Row]:
        return [
            row
            for row in self._rows.values()
            if row.request.pool == pool
            and row.request.state is State.QUEUED
            and row.request.follows is None
        ]

    def _demand(self, pool: str) -> Demand:
        queued = self._queue(pool)
        running = sum(
            row.request.pool == pool and row.request.state is State.RUNNING
            for row in self._rows.values()
        )
        queued = [row for row in queued if not self.operations.paused(row.request.endpoint)]
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

    def _refuse_past_caps(self, tenant: str, endpoint: str) -> None:
        queued = [row for row in self._rows.values() if row.request.state is State.QUEUED]
        if len(queued) >= self._limits.max_waiting:
            raise Overloaded(f"{len(queued)} requests are waiting already.", retry_after_s=1.0)
        own = sum(row.request.tenant == tenant for row in queued)
        if own >= self._limits.waiting_of_tenant(tenant):
            raise Overloaded(f"{own} of your requests are waiting already.", retry_after_s=1.0)
        most = self._limits.waiting_of_endpoint(endpoint)
        same = sum(row.request.endpoint == endpoint for row in queued)
        if most is not None and same >= most:
            message = f"{same} requests are waiting for {endpoint} already."
            raise Overloaded(message, retry_after_s=1.0)

    def _row(self, tenant: str, request_id: str) -> Row:
        row = self._rows.get(request_id)
        if row is None or row.request.tenant != tenant:
            raise RequestNotFound(f"There is no request {request_id}.")
        return row

    def _keep(self, held: Held, snapshot: StoredSnapshot) -> None:
        row = self._holder(held)
        if row is not None and is_of(held, snapshot.key):
            row.request = replace(row.request, snapshot=snapshot)

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
        # A line tells of a state when it is the first to be written in it.
        told = row.told is row.request.state or level == "WARNING"
        state = None if told else row.request.state
        row.told = state or row.told
        row.log.append(LogLine(len(row.log) + 1, self._clock.now(), level, message, state))
        row.request = replace(row.request, events=len(row.log))

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


def _remaining_s(request: Request) -> float | None:
    if request.end_by is None or request.started_at is None:
        return None
    return (request.end_by - request.started_at).total_seconds()


def _visible(request: Request) -> tuple[Any, ...]:
    return (
        request.state,
        request.attempt,
        request.progress,
        request.preview_step,
        request.events,
    )
