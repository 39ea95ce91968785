"""Updates after a commit: refresh this process's memory, then wake waiters here and in other
processes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import LeaseKey, Signal, SignalKind
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.store import messages
from serve_app.queue.store.config import Limited, QueueLimits
from serve_app.queue.store.notify import Notification
from serve_app.queue.transactions.cancel import Removed
from serve_app.queue.transactions.coalescing import CoalescedRequests
from serve_app.queue.transactions.end_attempt import WITHOUT_REPLICA, EndedAttempt, EndReason
from serve_app.telemetry.queue_metrics import QueueMeter

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

log = logging.getLogger(__name__)


class PoolChange(NamedTuple):
    """Queued request that waits in another pool now."""

    request_id: str
    from_pool: str
    tenant: str
    endpoint: str
    pool: str


@dataclass(frozen=True, slots=True)
class Ending:
    """Attempt whose end is committed. Steps add to the two sets."""

    attempt: EndedAttempt
    ran_in: str  # pool of its replica
    outcome: Outcome | None  # that its replica has handed in
    woken: set[str]  # pools in which requests may be leased now
    freed: set[Limited]  # names under a limit, of which less runs now


class AfterCommit:
    """Publish the effects of committed changes to this process and to the other ingress
    processes.
    """

    def __init__(
        self, database: Database, limits: QueueLimits, state: QueueState, metrics: QueueMeter
    ) -> None:
        self._limits = limits
        self._state = state
        self._metrics = metrics
        self.tracing: Tracing | None = None  # None: spans are off
        self._coalesced = CoalescedRequests(database)
        self._steps: Sequence[Callable[[Ending], None]] = (
            self._count,
            self._charge_lane,
            self._note_canary,
            self._trace_lost,
            self._release_node,
            self._free_limits,
            self._queue_again,
            self._remember,
        )
        """What the end of an attempt changes here, in any order; then waiters are woken."""

    def publish_end(
        self,
        ended: Sequence[EndedAttempt],
        outcomes: Mapping[LeaseKey, Outcome] | None = None,
        *,
        fenced: bool = False,
    ) -> None:
        """Publish that attempts ended.

        ``outcomes`` holds the outcomes that replicas handed in. ``fenced`` means that the replicas
        do not know yet and get a FENCED signal.
        """
        woken: set[str] = set()
        freed: set[Limited] = set()
        for attempt in ended:
            ran_in = self._state.stats.ran_in(attempt.replica_id, attempt.pool)
            outcome = (outcomes or {}).get(attempt.lease_key)
            ending = Ending(attempt, ran_in, outcome, woken, freed)
            for step in self._steps:
                step(ending)
        signals = [Signal(SignalKind.FENCED, end.lease_key) for end in ended] if fenced else []
        self.notify([end.lease_key.request_id for end in ended], woken, signals, freed)
        self.settle_soon(end.leads for end in ended if end.state is not State.QUEUED)

    # Steps of an end.

    def _count(self, ending: Ending) -> None:
        attempt = ending.attempt
        self._metrics.attempt_ended(attempt.pool, attempt.how.value, attempt.node)
        self._metrics.record_end(
            attempt.endpoint,
            attempt.pool,
            attempt.state,
            attempt.run_s,
            attempt.total_s,
            attempt.code,
        )
        if attempt.state is not State.QUEUED:
            self._metrics.add_run_time(self._limits.metrics_label(attempt.tenant), attempt.run_s)

    def _charge_lane(self, ending: Ending) -> None:
        """Charge the attempt's run time to its lane. An attempt that never reached its replica
        costs nothing.
        """
        attempt = ending.attempt
        took_s = attempt.run_s or (0.0 if attempt.how is EndReason.UNDELIVERED else attempt.held_s)
        self._state.charges.add(attempt.pool, attempt.tenant, took_s - attempt.expected_s)
        if attempt.how is EndReason.SUCCEEDED and not (attempt.resumed or attempt.ran_elsewhere):
            self._state.costs.observe(attempt.endpoint, ending.ran_in, attempt.work, took_s)

    def _note_canary(self, ending: Ending) -> None:
        self._state.canaries.note(ending.attempt, ending.ran_in)

    def _trace_lost(self, ending: Ending) -> None:
        """Record the attempt's span if its replica will not."""
        attempt = ending.attempt
        if self.tracing is not None and attempt.how in WITHOUT_REPLICA:
            self.tracing.lost(
                attempt.trace,
                attempt.lease_key,
                attempt.pool,
                attempt.replica_id,
                attempt.held_s,
                attempt.how.value,
            )

    def _release_node(self, ending: Ending) -> None:
        """End the quarantine of a node on which an attempt succeeded."""
        attempt, quarantines = ending.attempt, self._state.quarantines
        if attempt.how is EndReason.SUCCEEDED and (node := quarantines.node_of(attempt.replica_id)):
            release = partial(quarantines.release, node, attempt.held_s)
            self._attempt_soon(release, f"Node {node} stays quarantined")

    def _free_limits(self, ending: Ending) -> None:
        """Free the slots that the attempt took under limits of what runs."""
        attempt = ending.attempt
        if limited := self._limits.find_limited(attempt.tenant, attempt.endpoint):
            ending.woken.add(attempt.pool)
            ending.freed.update(limited)

    def _queue_again(self, ending: Ending) -> None:
        """Wake the pool in which the request is queued again, if it is."""
        attempt = ending.attempt
        if attempt.state is not State.QUEUED:
            return
        ending.woken.add(attempt.queued_in)
        self._state.stats.count_requeue(attempt.queued_in, attempt.tenant, attempt.endpoint)
        self._state.snapshots.queued_again(attempt.queued_in, attempt.tenant)
        if attempt.fell_back:
            self._metrics.fell_back(attempt.endpoint, "failure")
            lane = attempt.queued_in, attempt.tenant
            self._attempt_soon(partial(self._open_lane, lane), "A lane is opened later")

    def _remember(self, ending: Ending) -> None:
        """Keep the end in memory, for those that wait for it, or forget what memory has."""
        attempt, outcome = ending.attempt, ending.outcome
        if outcome is None or attempt.state is not _state(outcome):
            self._state.requests.invalidate([attempt.lease_key.request_id])
            return
        self._state.requests.apply_change(
            attempt.lease_key.request_id,
            attempt.version,
            state=attempt.state,
            outcome=outcome,
            failures=attempt.failures,
            finished_at=attempt.finished_at,
            progress=None,
            preview_step=0,
        )

    async def _open_lane(self, lane: tuple[str, str]) -> None:
        """Open the lane of a request that fell back to a pool in which its tenant had none."""
        await self._state.lanes.open([lane])
        await self._state.lanes.wake_if_work([lane])
        self.notify(pools=[lane[0]])

    def _attempt_soon(self, work: Callable[[], Awaitable[None]], otherwise: str) -> None:
        """Do this in the background. ``otherwise``: what the log says if it fails, as while the
        database is away."""

        async def attempt() -> None:
            try:
                await work()
            except DarkroomError as error:
                log.warning("%s: %s", otherwise, error.message)

        self._state.background.spawn(attempt())

    def publish_removal(self, removed: Sequence[Removed], outcome: Outcome) -> None:
        """Publish that requests were cancelled or expired. Requests that are still running were
        asked to stop.
        """
        signals: list[Signal] = []
        for removal in removed:
            id_ = removal.lease_key.request_id
            if removal.state is State.RUNNING:
                signals.append(Signal(SignalKind.CANCEL, removal.lease_key))
                if removal.changed:
                    self._state.requests.apply_change(id_, removal.version, cancel_requested=True)
                continue
            if removal.followed:
                self._state.stats.count_uncoalesced(removal.pool, removal.tenant, removal.endpoint)
            else:
                self._state.stats.count_removal(removal.pool, removal.tenant, removal.endpoint)
            failure = None if removal.state is State.CANCELLED else outcome.failure
            code = failure.code if failure else None
            self._metrics.record_end(removal.endpoint, removal.pool, removal.state, 0.0, 0.0, code)
            self._state.requests.apply_change(
                id_,
                removal.version,
                state=removal.state,
                outcome=outcome,
                finished_at=removal.finished_at,
                cancel_requested=removal.state is State.CANCELLED,
                follows=None,
            )
        self.notify(
            [request.lease_key.request_id for request in removed if request.changed],
            signals=signals,
        )
        self.settle_soon(request.leads for request in removed if request.state is not State.RUNNING)

    async def settle(self, groups: Iterable[str] | None = None) -> None:
        """Settle the coalesced requests whose leader has ended: of these groups, or all. Each gets
        the outcome or is queued by itself.
        """
        settled = await self._coalesced.settle(groups)
        for request in settled:
            self._state.stats.count_uncoalesced(request.pool, request.tenant, request.endpoint)
            if request.succeeded:
                self._metrics.count_entry(request.endpoint, State.SUCCEEDED)
            else:
                self._state.stats.count_requeue(request.pool, request.tenant, request.endpoint)
                self._state.snapshots.queued_again(request.pool, request.tenant)
        self._state.requests.invalidate(member.id for member in settled)
        pools = {member.pool for member in settled if not member.succeeded}
        self.notify([member.id for member in settled], pools)
        self._state.lanes.wake_if_work_soon(
            (member.pool, member.tenant) for member in settled if not member.succeeded
        )

    def settle_soon(self, groups: Iterable[str | None]) -> None:
        """Settle these groups in the background: their leader may have ended."""
        if known := {group for group in groups if group is not None}:
            later = "Requests coalesced with an ended one are settled later"
            self._attempt_soon(partial(self.settle, known), later)

    def changed_pools(self, changes: Sequence[PoolChange]) -> None:
        """Publish that queued requests fell back, or changed their pool."""
        for change in changes:
            self._state.stats.count_removal(change.from_pool, change.tenant, change.endpoint)
            self._state.stats.count_requeue(change.pool, change.tenant, change.endpoint)
            self._state.snapshots.queued_again(change.pool, change.tenant)
        ids = [change.request_id for change in changes]
        self._state.requests.invalidate(ids)
        self.notify(ids, {change.pool for change in changes})

    def publish_move(self, request_id: str, pool: str, tenant: str) -> None:
        """Publish that a request that waits has another place among those of its tenant."""
        self._state.requests.invalidate([request_id])
        self._state.snapshots.queued_again(pool, tenant)
        self.notify([request_id], [pool])

    def publish_deletion(self, request_ids: Sequence[str]) -> None:
        """Publish that requests were deleted or redacted: every process drops them from memory."""
        self._state.requests.invalidate(request_ids)
        self.notify(request_ids)

    def on_notification(self, notification: Notification) -> None:
        """Apply a notification from another process."""
        self._state.requests.invalidate(notification.changed)
        self._state.waiters.signal(notification.signals)
        self._state.running_limits.note_freed(notification.freed)
        self._state.waiters.wake(notification.pools)

    def on_notification_gap(self) -> None:
        """Recover from notifications that may have been lost: distrust all memory and look in every
        pool.
        """
        self._state.requests.invalidate_all()
        self._state.running_limits.forget()
        self._state.waiters.wake_all()

    def notify(
        self,
        changed: Iterable[str] = (),
        pools: Iterable[str] = (),
        signals: Sequence[Signal] = (),
        freed: Collection[Limited] = (),
    ) -> None:
        """Announce changes to this process and the others: requests that changed, pools in which
        requests may be leased now, signals for replicas, and limited names of which less runs.
        """
        self._state.waiters.signal(signals)
        if freed:
            self._state.running_limits.note_freed(freed)
        self._state.waiters.wake(pools)
        self._state.notifier.notify(changed, pools, signals, freed)


def _state(outcome: Outcome) -> State:
    if outcome.failure is None:
        return State.SUCCEEDED
    if messages.is_cancel(outcome.failure):
        return State.CANCELLED
    return State.EXPIRED if messages.is_expiry(outcome.failure) else State.FAILED
