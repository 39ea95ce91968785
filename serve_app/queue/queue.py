"""The queue of one ingress process: its parts, put together behind the port ``Queue``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from serve_app.domain.ports import Clock, LeaseTerms, Liveness
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.postgres.leader_election import LeaderElection
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.finisher import Finisher
from serve_app.queue.heartbeat import Heartbeats
from serve_app.queue.long_poll import LongPoll
from serve_app.queue.operations import PostgresOperations
from serve_app.queue.reaper import PeriodicTask, Reaper
from serve_app.queue.removal import Removal
from serve_app.queue.request_log import RequestLog
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.state.request_cache import PreviewCache
from serve_app.queue.store.config import NullObserver, Observer, QueueLimits, Retention
from serve_app.queue.store.diagnostics import MEASURE_EVERY_S, VacuumMonitor
from serve_app.queue.submitter import Submitter
from serve_app.queue.transactions import snapshots
from serve_app.queue.transactions.garbage import GarbageFiles
from serve_app.queue.transactions.history import History
from serve_app.queue.transactions.idempotency import IdempotencyKeys
from serve_app.queue.transactions.usage import FrameUsage, PostgresLedger

RETENTION_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class QueueParts:
    """Parts of a queue. They share a ``QueueState``; each implements some methods of the port."""

    state: QueueState
    after: AfterCommit
    submitter: Submitter
    polls: LongPoll
    heartbeats: Heartbeats
    finisher: Finisher
    reaper: Reaper
    removal: Removal
    log: RequestLog
    operations: PostgresOperations
    garbage: GarbageFiles
    vacuum: VacuumMonitor
    election: LeaderElection


def assemble(
    database: Database,
    clock: Clock,
    terms: LeaseTerms,
    limits: QueueLimits,
    liveness: Liveness,
    ingress_id: str,
    observer: Observer | None = None,
    retention: Retention | None = None,
    reads: Database | None = None,
) -> PostgresQueue:
    """Build the queue of one ingress process. Any number of them share a database whose tables are
    migrated.

    The caller starts and closes ``database``, which must outlive the queue, and ``reads``, which
    long reads of history use; None: the same.
    """
    observer = observer or NullObserver()
    state = QueueState.create(database, clock, limits, ingress_id)
    after = AfterCommit(database, limits, state, observer)
    polls = LongPoll(database, limits, terms, state, after)
    state.waiters.on_work(polls.lease_soon)
    garbage = GarbageFiles(database, terms)
    parts = QueueParts(
        state=state,
        after=after,
        submitter=Submitter(database, limits, state, polls, after),
        polls=polls,
        heartbeats=Heartbeats(database, limits, terms, state),
        finisher=Finisher(database, limits, after),
        reaper=Reaper(database, limits, liveness, state, after),
        removal=Removal(database, retention or Retention(), garbage, state.requests, after),
        log=RequestLog(database, state.requests),
        operations=PostgresOperations(database, limits, state.pauses, after),
        garbage=garbage,
        vacuum=VacuumMonitor(database, observer),
        election=LeaderElection(database, clock, ingress_id),
    )
    return PostgresQueue(database, FairReads(reads or database), limits, parts)


class PostgresQueue:
    """Queue of one ingress process, made by ``assemble``. Its parts implement its methods."""

    def __init__(
        self, database: Database, reads: FairReads, limits: QueueLimits, parts: QueueParts
    ) -> None:
        self._database = database
        self._check_s = limits.check_interval_s
        self.parts = parts
        self._idempotency = IdempotencyKeys(database)
        self._tasks: list[PeriodicTask] = []
        state = parts.state

        # Calls by clients
        self.submit = parts.submitter.submit
        self.find_earlier = parts.submitter.find_earlier
        self.undelivered = self._idempotency.undelivered
        self.get = state.requests.get
        self.wait = state.requests.wait
        self.changed = state.requests.changed
        self.preview = PreviewCache(database, state.requests).preview
        self.waiting = state.stats.waiting
        self.ends_at = state.stats.ends_at
        self.log = parts.log.log
        self.lines = parts.log.lines
        self.page = History(reads).page
        self.cancel = parts.removal.cancel
        self.delete = parts.removal.delete
        self.record_frame = FrameUsage(database, state.charges).record_frame
        self.demand = state.stats.demand
        self.operations = parts.operations
        self.ledger = PostgresLedger(reads)

        # Calls by replicas
        self.announce = state.replicas.announce
        self.ask = parts.polls.ask
        self.report = parts.heartbeats.report
        self.finish = parts.finisher.finish
        self.hand_back = parts.finisher.hand_back

    async def start(self) -> None:
        """Start the listener and the periodic tasks."""
        if self._tasks:
            return
        state, after = self.parts.state, self.parts.after
        state.notifier.start(after.on_notification, after.on_notification_gap)
        await state.stats.refresh()
        self._tasks = self._periodic_tasks()
        for task in self._tasks:
            task.start()

    async def aclose(self) -> None:
        """Answer every poll, finish the work under way, then stop."""
        parts, state = self.parts, self.parts.state
        await parts.polls.aclose()
        await parts.submitter.aclose()
        await parts.finisher.aclose()
        await parts.heartbeats.aclose()
        await state.background.aclose()
        for task in self._tasks:
            await task.aclose()
        self._tasks = []
        await state.lanes.aclose()
        await state.notifier.aclose()
        await state.requests.aclose()
        await parts.log.aclose()

    def _periodic_tasks(self) -> list[PeriodicTask]:
        """Tasks that run beside each other; the functions of one task run one after the other."""
        parts, state, check_s = self.parts, self.parts.state, self._check_s
        reaper, removal = parts.reaper, parts.removal
        forget_snapshots = partial(snapshots.forget_ended, self._database)
        forget_undelivered = self._idempotency.forget_undelivered
        count_listeners = state.notifier.count_listeners
        elected = partial(parts.election.on_leader, "retention", RETENTION_EVERY_S)
        return [
            PeriodicTask(check_s, [parts.polls.refresh]),
            PeriodicTask(check_s, [state.replicas.flush, state.stats.refresh, reaper.reap]),
            PeriodicTask(check_s, [reaper.expire, reaper.sweep_lanes, count_listeners]),
            PeriodicTask(check_s, [reaper.end_dead_replicas]),
            PeriodicTask(check_s, [parts.after.settle]),
            PeriodicTask(check_s, [state.costs.refresh, state.charges.flush]),
            PeriodicTask(
                10 * check_s, [reaper.forget_progress, forget_snapshots, forget_undelivered]
            ),
            PeriodicTask(check_s, [parts.garbage.collect, removal.redact]),
            PeriodicTask(MEASURE_EVERY_S, [parts.vacuum.measure]),
            PeriodicTask(
                RETENTION_EVERY_S,
                [
                    elected(removal.delete_aged),
                    elected(removal.delete_expired_keys),
                ],
            ),
        ]
