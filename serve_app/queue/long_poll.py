"""Lease polls: a poll gets queued requests at once, or waits for new ones."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError, DatabaseUnavailable
from serve_app.domain.lease import (
    Ask,
    Lease,
    LeaseKey,
    LeasePreference,
    LeaseTerms,
    LeftOut,
    Presence,
    Signal,
    SignalKind,
    Work,
    lease_of,
)
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Priority, Request
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.state.waiters import RETURN_S, PoolOffer, Waiter, ranked_turns
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import StoredRequest, lease_columns
from serve_app.queue.transactions.end_attempt import AttemptEnd, EndAttempts, EndReason
from serve_app.queue.transactions.insert import DirectLease
from serve_app.queue.transactions.lease import Contention, lease_queued
from serve_app.telemetry.logs import log_context, request_id
from serve_app.telemetry.queue_metrics import QueueMeter

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

MAX_LEASES_PER_STATEMENT = 64

MOST_POLLS = 2
"""Polls after which a request is held no longer."""

CHECK_HELD = """
-- name: check_held
SELECT n.id::text, n.attempt, n.nonce,
       coalesce(r.state = 'running' AND r.attempt = n.attempt AND r.lease_nonce = n.nonce, false),
       r.cancel_requested
FROM json_to_recordset(%(held)s::json) AS n(id uuid, attempt integer, nonce bigint)
LEFT JOIN requests r ON r.id = n.id
"""


EXIT_S = 0.5
"""Time by which polls under an ended term are answered: a replica may take a moment to end."""


@dataclass(slots=True)
class _Hold:
    """Requests of a pool that are not stored yet, since they will be leased in their insert."""

    polls: int = 0  # that have come since
    over: bool = False  # its time: nothing is held until the next poll


class LongPoll:
    """Long polls of replicas for work."""

    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        terms: LeaseTerms,
        state: QueueState,
        after: AfterCommit,
        metrics: QueueMeter,
    ) -> None:
        self._database = database
        self._limits = limits
        self._terms = terms
        self._state = state
        self._waiters = state.waiters
        self._after = after
        self._metrics = metrics
        self.tracing: Tracing | None = None  # None: spans are off
        self._attempts = EndAttempts(database, limits)
        self._leasing: dict[str, asyncio.Task[None]] = {}
        self._holds: dict[str, _Hold] = {}  # by pool
        self._resume: Callable[[str], None] = lambda _: None
        self._contention: defaultdict[str, Contention] = defaultdict(Contention)  # by pool
        self._random = Random()  # noqa: S311 - jitter
        self._closed = False

    async def announce(self, presence: Presence) -> Work | None:
        """Record a replica that starts or ends. The reply says which weights it should hold."""
        if ended := self._state.terms.end_of(presence.actor_id):
            return Work(exit=ended)
        await self._state.replicas.announce(presence)
        return self._state.kept_weights.answer_to_announcement(presence)

    async def ask(self, ask: Ask) -> Work:
        """Wait for leases or signals, at most ``ask_wait_s``. If the caller is cancelled, its
        leases are undone. Under an ended term, the reply says so.
        """
        if ended := self._state.terms.end_of(ask.actor_id):
            await asyncio.sleep(EXIT_S)
            return Work(exit=ended)
        self._state.replicas.record_poll(ask)
        waiter = self._waiters.add(self._limit_slots(self._with_families(ask)), self._offer(ask))
        self.lease_soon(waiter.queue)
        self._count_poll(waiter.queue)
        try:
            await self._wait(waiter)
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        if waiter.gone:
            self._abandon(waiter)
            return Work(exit=self._state.terms.end_of(ask.actor_id))
        self._waiters.remove_answered(waiter)
        work = Work(tuple(waiter.leases), tuple(waiter.signals))
        return self._state.kept_weights.answer_to_ask(ask, work)

    def _with_families(self, ask: Ask) -> Ask:
        """The poll without what it leaves out for a family that the endpoint no longer has."""
        changed = {
            id_
            for id_, family in ask.lacking
            if (endpoint := self._terms.endpoint(id_)) is not None and endpoint.family != family
        }
        if not changed:
            return ask
        return replace(ask, coming=tuple(id_ for id_ in ask.coming if id_ not in changed))

    def _limit_slots(self, ask: Ask) -> Ask:
        """The poll with the slots that may be used."""
        if self._state.canaries.has_returned(ask.pool):
            return replace(ask, slots=0)
        return self._state.quarantines.limit_slots(ask)

    def _offer(self, ask: Ask) -> PoolOffer:
        """What the slots of this replica are for. A replica of an overflow pool leaves out what its
        pool does not name, and what its device is too small for. A canary leaves out what has
        failed before, maybe in it: it fails fast, and would take the same request again."""
        overflow, pool = self._limits.overflow, ask.pool
        if pool not in overflow.before:
            return PoolOffer(pool)
        unfit = self._terms.unfit(*overflow.fit_of(pool, ask.device_bytes))
        left_out = LeftOut(unfit, failed=pool in overflow.canaries)
        return PoolOffer(overflow.queue_of(pool), overflow.rank(pool), left_out)

    def lease_soon(self, pool: str) -> None:
        """Lease queued requests of the pool in the background, if a poll waits for it."""
        if pool in self._waiters.drained or pool in self._leasing or self._closed:
            return
        if self._waiters.has_free_slot(pool):
            task = asyncio.create_task(self._lease(pool))
            self._leasing[pool] = task

    def is_drained(self, pool: str) -> bool:
        """True if nothing is queued in the pool, as far as this process knows."""
        return pool in self._waiters.drained and pool not in self._leasing

    def on_open(self, resume: Callable[[str], None]) -> None:
        """Call ``resume`` with each pool for which ``holds`` may no longer be true."""
        self._resume = resume

    def holds(self, pool: str) -> bool:
        """True while a request that nobody is told of before its end had better be stored in a
        moment: then it is leased in its insert. For ``RETURN_S`` at most, and until the second poll
        from now: others may get the slots of the first.

        Under load, the replicas' polls are on their way most of the time. A request that is stored
        meanwhile starts no sooner, but is leased by a statement of its own, and so is everything
        that is stored during that one.
        """
        if not self._leases_soon(pool):
            self._holds.pop(pool, None)
            return False
        hold = self._holds.get(pool)
        if hold is None:
            hold = self._holds[pool] = _Hold()
            asyncio.get_running_loop().call_later(RETURN_S, self._stop_holding, pool, hold)
        elif hold.polls == MOST_POLLS:
            del self._holds[pool]
            return False
        return not hold.over

    def _count_poll(self, pool: str) -> None:
        """A replica polls: what is held may be stored."""
        hold = self._holds.get(pool)
        if hold is not None:
            hold.polls += 1
            if hold.over:
                del self._holds[pool]
        self._resume(pool)

    def _stop_holding(self, pool: str, hold: _Hold) -> None:
        if self._holds.get(pool) is hold:
            hold.over = True
            self._resume(pool)

    def _leases_soon(self, pool: str) -> bool:
        """True if all that is queued will have a slot in a moment, and more slots are left."""
        leasing = pool in self._leasing
        if self._closed or (not leasing and self._waiters.has_free_slot(pool)):
            return False
        slots = self._waiters.slots_soon(pool, leasing=leasing)
        return slots > self._state.stats.queued_count(pool)

    async def check_signals(self) -> None:
        """Check in the database every attempt held by a waiting replica, and signal the cancelled
        and the fenced.
        """
        leases = self._waiters.held_leases()
        if not leases:
            return
        named = messages.compact([lease_columns(lease) for lease in leases])
        rows = await self._database.rows(CHECK_HELD, {"held": named})
        for *key, holds, cancelled in rows:
            if not holds:
                self._waiters.signal([Signal(SignalKind.FENCED, LeaseKey(*key))])
            elif cancelled:
                self._waiters.signal([Signal(SignalKind.CANCEL, LeaseKey(*key))])

    async def refresh(self) -> None:
        """Look for everything that a notification may have missed."""
        self._waiters.expire()
        self._waiters.wake_all()
        await self._state.requests.refresh_watched()
        await self.check_signals()

    async def aclose(self) -> None:
        """Answer every poll and wait for the statements under way."""
        self._closed = True
        self._waiters.close()
        for pool in [*self._holds]:
            self._resume(pool)
        await asyncio.gather(*self._leasing.values(), return_exceptions=True)

    def hand_out(self, waiter: Waiter, request: Request, input: Mapping[str, Any]) -> None:
        """Hand a committed lease of ``request`` to ``waiter``. ``input`` is the request's full
        input.
        """
        if request.attempt == 1 and request.started_at is not None:
            wait_s = (request.started_at - request.created_at).total_seconds()
            self._metrics.record_start(request.endpoint, request.pool, wait_s)
            if self.tracing is not None:
                self.tracing.record_wait(request, wait_s)
        try:
            prepared = self._prepare_lease(request, input)
        except Exception as error:
            # A broken catalogue or storage setting must not block the poll.
            with log_context(request.id):
                log.exception(
                    "The lease of request %s could not be prepared; the attempt ends", request.id
                )
            prepared = messages.no_terms(error)
        if isinstance(prepared, Lease):
            if not self._waiters.deliver(waiter, prepared):
                self._undo([prepared])
            return
        self._waiters.release(waiter)
        self._state.background.spawn(self._end_unprepared(request, prepared))

    def _prepare_lease(self, request: Request, input: Mapping[str, Any]) -> Lease | Outcome:
        endpoint = self._terms.endpoint(request.runs_at)
        if endpoint is None:
            return messages.endpoint_missing(request.runs_at)
        lease_input = input
        if request.fell_back_to and request.fallback is not None:
            lease_input = self._terms.fallback_input(endpoint.id, request.fallback.fields, input)
        policy, at = request.upload_policy, request.started_at
        if policy and at and (refusal := policy.refusal(at)) is not None:
            return messages.upload_policy_failure(refusal)
        return Lease(
            request_id=request.id,
            attempt=request.attempt,
            nonce=request.lease_nonce,
            tenant=request.tenant,
            expires_in_s=self._limits.first_lease_s,
            endpoint=endpoint,
            input=lease_input,
            upload_tickets=self._tickets(request, endpoint, lease_input),
            priority=request.priority,
            deadline_s=_remaining_s(request),
            alone=request.alone,
            snapshot_url=None
            if request.snapshot is None
            else self._terms.state_url(request.snapshot.key),
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
            trace="" if self.tracing is None else self.tracing.lease_trace(request),
        )

    def _tickets(
        self, request: Request, endpoint: Endpoint, input: Mapping[str, Any]
    ) -> tuple[UploadTicket, ...]:
        if request.priority is Priority.REALTIME:
            return ()  # sessions write nothing to storage
        lease, access = lease_of(request), request.file_access
        policy = request.upload_policy
        return self._terms.tickets(lease, request.tenant, endpoint, input, access, policy)

    async def _wait(self, waiter: Waiter) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._limits.ask_wait_s
        if waiter.ask.wait_s is not None:
            wait_s = min(wait_s, waiter.ask.wait_s)
        end = loop.time() + wait_s
        while not waiter.ready:
            left_s = end - loop.time()
            if left_s <= 0:
                waiter.open = False
                if waiter.ready:
                    return
            waiter.woken.clear()
            # After its timeout the poll waits only for a statement that may still lease to it.
            timer = loop.call_later(left_s if left_s > 0 else 1.0, waiter.woken.set)
            try:
                await waiter.woken.wait()
            finally:
                timer.cancel()

    def _abandon(self, waiter: Waiter) -> None:
        waiter.gone = True
        self._waiters.remove(waiter)
        if waiter.leases:
            self._undo(waiter.leases)

    async def _end_unprepared(self, request: Request, outcome: Outcome) -> None:
        """End an attempt that got no lease. It is undone if its endpoint is new to this process."""
        failure, lease = outcome.failure, lease_of(request)
        how = EndReason.RETRY if failure and failure.retryable else EndReason.FAILED
        message = failure.message if failure else ""
        if self._terms.endpoint(request.runs_at) is None and await self._is_new(request.runs_at):
            how, message = EndReason.UNDELIVERED, "Its endpoint was not known to this ingress yet"
        await self._end_attempts([AttemptEnd(lease, how, message, outcome)])

    async def _is_new(self, endpoint: str) -> bool:
        """True if the endpoint is known now, or if the database does not say."""
        try:
            await self._terms.refresh()
        except DarkroomError as error:
            log.warning("The catalogue could not be read again: %s", error.message)
            return True
        return self._terms.endpoint(endpoint) is not None

    def _end_soon(self, ends: Sequence[AttemptEnd]) -> None:
        self._state.background.spawn(self._end_attempts(ends))

    async def _end_attempts(self, ends: Sequence[AttemptEnd]) -> None:
        outcomes = {end.lease_key: end.outcome for end in ends if end.how is EndReason.FAILED}
        try:
            self._after.publish_end(await self._attempts.end(ends), outcomes)
        except DarkroomError as error:
            log.warning(
                "Undelivered leases could not be ended, and will run out: %s", error.message
            )

    def _undo(self, leases: Sequence[Lease]) -> None:
        self._end_soon(
            [
                AttemptEnd(
                    lease.key,
                    EndReason.UNDELIVERED,
                    "The replica disconnected before it got the lease",
                )
                for lease in leases
            ]
        )

    async def _lease(self, pool: str) -> None:
        """Lease queued requests to the waiting polls until either runs out."""
        request_id.set(None)  # The submit that started this task may belong to another tenant.
        drained = self._waiters.drained
        try:
            while pool not in drained and not self._closed:
                waiters = self._waiters.reserve(pool, MAX_LEASES_PER_STATEMENT)
                if not waiters:
                    break
                drained.add(pool)  # unless a submit wakes the pool in between
                more, complete = await self._lease_to(pool, waiters)
                if not more and not complete and pool in drained:
                    drained.discard(pool)  # other replicas may take what these do not
                    break
                if more:
                    drained.discard(pool)
                    await asyncio.sleep(self._contention[pool].pause_s(self._random.random()))
        except DatabaseUnavailable as error:
            # The next round, within a second, tries again.
            drained.discard(pool)
            log.warning(
                "No request can be leased now; trying again within a second: %s", error.message
            )
        except Exception:
            drained.discard(pool)
            log.exception("Leasing in pool %s failed", pool)
        finally:
            del self._leasing[pool]
            self._resume(pool)

    async def _lease_to(self, pool: str, waiters: Sequence[Waiter]) -> tuple[bool, bool]:
        """Lease to waiters, in their turns. Returns whether more may be queued, and whether the
        last of them took any request, so that what they leave is nothing."""
        left = [*waiters]
        more, complete = True, True
        try:
            for rank, wants, offered in ranked_turns(waiters):
                alike = [poll for poll in left if (poll.rank, poll.wants) == (rank, wants)]
                if not alike:
                    continue
                more = await self._lease_alike(pool, alike, offered, left)
                complete = not offered.left_out
                if not left:
                    more = more or offered != wants
                    break
                if complete and not more:
                    break
        finally:
            for waiter in left:
                self._waiters.release(waiter)
        return more, complete

    async def _lease_alike(
        self, pool: str, waiters: Sequence[Waiter], wants: LeasePreference, left: list[Waiter]
    ) -> bool:
        """Lease to waiters that want the same, and take those that got a request off ``left``."""
        charges = self._state.charges.take(pool)
        snapshots = self._state.snapshots
        front = snapshots.front(pool, len(charges))
        try:
            offers = [DirectLease(waiter.ask.replica_id, waiter.ask.actor_id) for waiter in waiters]
            contention = self._contention[pool]
            full, began = LeftOut(), 0
            if self._limits.limits_running:
                full, began = self._state.running_limits.left_out()
            wants = wants._replace(left_out=wants.left_out | full)
            not_hot, lanes = self._state.stats.queued_and_lanes(pool, but=wants.hot)
            leased = await lease_queued(
                self._database,
                pool,
                offers,
                wants,
                self._limits,
                charges,
                spare_lanes=contention.spare_lanes,
                front=front,
                far=self._state.reordering.reads_far(
                    pool, wants, len(offers), not_hot=not_hot, lanes=lanes
                ),
            )
            if front is not None:
                weight = self._limits.weight
                refunds = [s / weight(tenant) for tenant, s in charges.items() if s < 0]
                snapshots.note_leasing(pool, leased.served, refunds if front.writes_lanes else [])
            if leased.full:
                self._state.running_limits.note_full(leased.full, began)
            charges = leased.unwritten
            contention = contention.after(len(leased.grants), leased.missed)
            self._contention[pool] = contention
            for n, stored, whole in leased.grants:
                left.remove(waiters[n])
                self._deliver_lease(waiters[n], stored, whole)
            self._state.notifier.notify(record.request.id for _, record, _ in leased.grants)
            if leased.drained:
                # Submits in between saw the lanes awake and did not wake them, so look again.
                self._state.lanes.wake_if_work_soon((pool, tenant) for tenant in leased.drained)
            return leased.more or contention.looks_again
        finally:
            self._state.charges.restore(pool, charges)

    def _deliver_lease(
        self, waiter: Waiter, stored: StoredRequest, input: Mapping[str, Any]
    ) -> None:
        request = stored.request
        self._state.stats.count_removal(request.pool, request.tenant, request.endpoint)
        self._state.requests.update(stored)
        self.hand_out(waiter, request, input)


def _remaining_s(request: Request) -> float | None:
    """Seconds left until the overall deadline when the lease began, by the database's clock; None
    without one.
    """
    if request.end_by is None or request.started_at is None:
        return None
    return (request.end_by - request.started_at).total_seconds()
