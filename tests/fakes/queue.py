"""The queue in memory: the same port and the same behaviour as PostgreSQL's, nothing durable.

One process and one event loop. Time comes from the clock; whatever depends on it is looked at
whenever somebody calls, and a few dozen times a second while somebody waits.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from serve_app.domain.errors import Cancelled, Expired, ReplicaDied
from serve_app.domain.lease import (
    Ask,
    Finish,
    Lease,
    LeaseKey,
    Presence,
    ReplicaStage,
    Report,
    ReportReply,
    Signal,
    SignalKind,
    Verdict,
    Work,
    lease_of,
)
from serve_app.domain.media.draft import with_expiry
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.request import Cause, Priority, Request, State
from serve_app.queue.heartbeat import UNFOLLOWED_REPORT_S
from serve_app.queue.store import messages
from serve_app.queue.transactions.snapshots import belongs_to
from tests.fakes.lane_order import VirtualStart
from tests.fakes.pool_history import FakePoolHistory
from tests.fakes.queue_client_side import ClientSide
from tests.fakes.queue_row import Row, suspect


class FakeQueue(ClientSide):
    """All of it: what replicas do as well."""

    @cached_property
    def pool_history(self) -> FakePoolHistory:
        return FakePoolHistory(self._clock, self.demand, self._presence)

    async def announce(self, presence: Presence) -> Work | None:
        if ended := self._ended_terms.get(presence.actor_id):
            return Work(exit=ended)
        self._presence[presence.replica_id] = presence
        return None

    async def ask(self, ask: Ask) -> Work:
        await self._look()
        if ended := self._ended_terms.get(ask.actor_id):
            return Work(exit=ended)
        self._presence[ask.replica_id] = Presence(
            *(ask.replica_id, ask.actor_id, ask.pool, ReplicaStage.READY, ask.detail, ask.loading),
            node=ask.node,
        )
        self._named[ask.actor_id] = frozenset(ask.leases)
        self._slots_of[ask.replica_id] = max(1, ask.slots + len(ask.leases))
        self._slots[ask.pool] = max(ask.slots + len(ask.leases), self._slots.get(ask.pool, 1))
        self._asking.append(ask)
        try:
            wait_s = self._limits.ask_wait_s if ask.wait_s is None else ask.wait_s
            work = await self._until(lambda: self._work(ask), min(wait_s, self._limits.ask_wait_s))
        finally:
            if ask in self._asking:
                self._asking.remove(ask)
        return work or Work()

    async def report(self, report: Report) -> ReportReply:
        if report.renewals and (known := self._presence.get(report.replica_id)) is not None:
            self._presence[report.replica_id] = replace(
                known, detail=report.detail, loading=report.loading
            )
        await self._look()
        cancelled: list[LeaseKey] = []
        fenced: list[LeaseKey] = []
        for key in report.renewals:
            row = self._holder(key)
            if row is None:
                fenced.append(key)
                continue
            row.confirmed = True
            row.start_by = row.request.end_by or datetime.max.replace(tzinfo=UTC)
            row.lease_until = self._clock.monotonic() + self._limits.lease_s
            if row.request.cancel_requested:
                cancelled.append(key)
        previews = dict(report.previews)
        for key, progress in report.progress:
            if (row := self._holder(key)) is None:
                continue
            step = row.request.preview_step
            if (preview := previews.get(key)) is not None:
                row.preview, step = preview, preview.step
            if row.request.progress != progress or row.request.preview_step != step:
                row.request = replace(row.request, progress=progress, preview_step=step)
                self._changed()
        for key, snapshot in report.snapshots:
            self._keep(key, snapshot)
        ticket_keys = [
            lease_key for lease_key in report.wants_tickets if self._holder(lease_key) is not None
        ]
        tickets = tuple(
            (lease_key, self._terms.snapshot_ticket(lease_key, "")) for lease_key in ticket_keys
        )
        watched, next_in_s = self._watched(report), self._next_in_s(report)
        return ReportReply(tuple(cancelled), tuple(fenced), tickets, watched, next_in_s)

    async def finish(self, finish: Finish) -> Verdict:
        await self._look()
        row = self._holder(finish.lease_key)
        if row is None:
            return self._repeated(finish.lease_key, "finish")
        row.ended[finish.lease_key] = "finish"
        finish = replace(finish, outcome=messages.storable(finish.outcome))
        if finish.outcome.drafts:
            expires_at = self._clock.now() + timedelta(seconds=self._keep_drafts_s(row.request.id))
            finish = replace(finish, outcome=with_expiry(finish.outcome, expires_at))
        failure = finish.outcome.failure
        self._settle(row, finish.outcome.usage.run_s, succeeded=failure is None)
        if failure is None:
            self._end(row, State.SUCCEEDED, finish.outcome)
        elif failure.code == Cancelled.code:
            self._end(row, State.CANCELLED, finish.outcome)
        elif failure.code == Expired.code:
            self._end(row, State.EXPIRED, finish.outcome)
        elif not failure.retryable:
            self._fail(row, finish.outcome)
        else:
            died = failure.code == ReplicaDied.code
            cause = Cause.CONNECTION_ERROR if died else Cause.SERVER_ERROR
            row.request = replace(row.request, alone=row.request.alone or died)
            self._failed_once(row, cause, finish.outcome, failure.message, died=died)
        return Verdict.ACCEPTED

    def _keep_drafts_s(self, request_id: str) -> float:
        keep_s = self._limits.keep_drafts_s
        if self.workflows.runs.parent_of(request_id) is not None:
            return keep_s
        return min(keep_s, self.lifecycles.kept_s.get(request_id, keep_s))

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        await self._look()
        row = self._holder(lease_key)
        if row is None:
            return self._repeated(lease_key, "hand_back")
        if snapshot is not None:
            self._keep(lease_key, snapshot)
        row.ended[lease_key] = "hand_back"
        self._settle(row)
        self._requeue(row, f"Replica {replica_id} handed the request back: {reason}")
        return Verdict.ACCEPTED

    def count_unfinished(self, endpoint: str) -> int:
        """Number of queued and running requests of an endpoint."""
        requests = (row.request for row in self._rows.values() if not row.request.state.final)
        return sum(request.endpoint == endpoint for request in requests)

    def _work(self, ask: Ask) -> Work | None:
        if ask not in self._asking:
            return Work(exit=self._ended_terms.get(ask.actor_id, ""))
        signals = tuple(signal for signal in self._signals(ask))
        leases: list[Lease] = []
        while len(leases) < ask.slots:
            start = self._next(ask)
            if start is None:
                break
            self._lanes.charge_lease(ask.pool, start)
            lease = self._lease(self._rows[start.queued.id], ask)
            if lease is not None:
                leases.append(lease)
        return Work(tuple(leases), signals) if leases or signals else None

    def _watched(self, report: Report) -> tuple[LeaseKey, ...]:
        now = self._clock.monotonic()
        return tuple(
            key
            for key in report.renewals
            if (row := self._holder(key)) is not None and row.watched_until > now
        )

    def _next_in_s(self, report: Report) -> float:
        now = self._clock.monotonic()
        rows = [self._holder(key) for key in report.renewals]
        followed = any(row is not None and row.followed_until > now for row in rows)
        return 0.0 if followed else min(UNFOLLOWED_REPORT_S, self._limits.lease_s / 8)

    def _signals(self, ask: Ask) -> list[Signal]:
        signals: list[Signal] = []
        for key in ask.leases:
            row = self._holder(key)
            if row is None:
                signals.append(Signal(SignalKind.FENCED, key))
            elif row.request.cancel_requested:
                signals.append(Signal(SignalKind.CANCEL, key))
        # The same signal at most once a second, or a replica that is slow to stop would spin.
        now = self._clock.monotonic()
        fresh = [s for s in signals if now - self._signalled.get((ask.replica_id, s), -9.0) >= 1.0]
        self._signalled.update({(ask.replica_id, signal): now for signal in fresh})
        return fresh

    def _lease(self, row: Row, ask: Ask) -> Lease | None:
        endpoint = self._terms.endpoint(row.request.runs_at)
        if endpoint is None:
            self._end(row, State.FAILED, messages.endpoint_missing(row.request.runs_at))
            return None
        fields, fallback = row.input, row.request.fallback
        if row.request.fell_back_to and fallback is not None:
            fields = dict(self._terms.fallback_input(endpoint.id, fallback.fields, fields))
        policy = row.request.upload_policy
        if policy and (refusal := policy.refusal(self._clock.now())) is not None:
            self._end(row, State.FAILED, messages.upload_policy_failure(refusal))
            return None
        attempt = row.request.attempt + 1
        row.actor_id, row.confirmed = ask.actor_id, False
        row.replicas.add(ask.replica_id)
        row.leased_at = self._clock.monotonic()
        row.lease_until = self._clock.monotonic() + self._limits.first_lease_s
        row.request = replace(
            row.request,
            state=State.RUNNING,
            attempt=attempt,
            lease_nonce=row.request.lease_nonce + 1,
            replica_id=ask.replica_id,
            started_at=self._clock.now(),
            progress=None,
            preview_step=0,
        )
        snapshot = row.request.snapshot
        note = "" if snapshot is None else f", from the snapshot at step {snapshot.step}"
        self._line(row, f"Attempt {attempt} started on replica {ask.replica_id}{note}.")
        self._changed()
        request = row.request
        return Lease(
            request_id=request.id,
            attempt=attempt,
            nonce=request.lease_nonce,
            tenant=request.tenant,
            expires_in_s=self._limits.first_lease_s,
            endpoint=endpoint,
            input=fields,
            upload_tickets=self._terms.tickets(
                lease_of(request),
                request.tenant,
                endpoint,
                fields,
                request.file_access,
                request.upload_policy,
            )
            if request.priority is not Priority.REALTIME
            else (),
            priority=request.priority,
            deadline_s=_remaining_s(request),
            alone=request.alone,
            snapshot_url=None if snapshot is None else self._terms.state_url(snapshot.key),
            draft_url=None
            if request.draft_key is None
            else self._terms.state_url(request.draft_key),
            files_url=self._terms.files_url,
            files_token=self._terms.files_token(request.tenant),
            describe_files=self._terms.describe_files and request.forgetting is None,
            safety=self._terms.safety(request.tenant, endpoint.id),
            marking=(policy := self._terms.marking(request.tenant)).value,
            certificates=""
            if policy is MarkPolicy.OFF or request.priority is Priority.REALTIME
            else self._terms.certificates,
            trace=request.trace,
        )

    def _next(self, ask: Ask) -> VirtualStart | None:
        """The request that is leased to it next."""
        may = (
            start
            for start in self._lanes.order(
                ask.pool, self._queue(ask.pool), ask.hot, self._clock.now(), ask.warm
            )
            if not self.operations.is_paused(start.queued.endpoint)
            and not self.operations.is_paused(self._rows[start.queued.id].request.runs_at)
            and start.queued.endpoint not in ask.left_out.endpoints
            and start.queued.tenant not in ask.left_out.tenants
            and not self._nearer_elsewhere(start.queued.endpoint, ask)
            and not self._is_suspect_for_another(self._rows[start.queued.id], ask)
            and not self._lanes.limit(self._rows[start.queued.id].request, self._running())
        )
        return next(may, None)

    def _is_suspect_for_another(self, row: Row, ask: Ask) -> bool:
        """This replica runs a suspect already, or another node is to try this one first."""
        if not suspect(row.request):
            return False
        own = (request for request in self._running() if request.replica_id == ask.replica_id)
        return any(suspect(request) for request in own) or (
            (not ask.node or ask.node in row.died_on) and self._ready_elsewhere(row)
        )

    def _nearer_elsewhere(self, endpoint: str, ask: Ask) -> bool:
        """Another that waits has its weights, or has them nearer to its device."""
        here = ask.preference.distance(endpoint)
        return any(
            other.preference.distance(endpoint) < here and other.slots and other.pool == ask.pool
            for other in self._asking
        )

    def _keep(self, lease_key: LeaseKey, snapshot: StoredSnapshot) -> None:
        row = self._holder(lease_key)
        if row is not None and belongs_to(lease_key, snapshot.key):
            row.request = replace(row.request, snapshot=snapshot)

    def _holder(self, lease_key: LeaseKey) -> Row | None:
        row = self._rows.get(lease_key.request_id)
        if row is None or row.request.state is not State.RUNNING:
            return None
        return row if lease_of(row.request) == lease_key else None

    def _repeated(self, lease_key: LeaseKey, act: str) -> Verdict:
        row = self._rows.get(lease_key.request_id)
        if row is not None and row.ended.get(lease_key) == act:
            return Verdict.ACCEPTED
        return Verdict.FENCED


def _remaining_s(request: Request) -> float | None:
    if request.end_by is None or request.started_at is None:
        return None
    return (request.end_by - request.started_at).total_seconds()
