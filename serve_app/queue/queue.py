"""The queue of one ingress process: its parts, put together behind the port ``Queue``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from serve_app.domain.lease import Demand, LeaseTerms, Liveness
from serve_app.domain.ports import Clock
from serve_app.domain.rest import Rest
from serve_app.periodic_task import PeriodicTask, Work
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.postgres.leader_election import LeaderElection
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.audit_log import SEAL_EVERY_S
from serve_app.queue.batches.batches import PostgresBatches
from serve_app.queue.billing.budgets import WARN_EVERY_S, PostgresBudgets
from serve_app.queue.billing.replica_hours import SAMPLE_EVERY_S, PostgresCostBook
from serve_app.queue.billing.rollup import UsageRollup
from serve_app.queue.drafts import PostgresDrafts
from serve_app.queue.fallback.moves import PostgresFallbacks
from serve_app.queue.fallback.overflow import Overflow
from serve_app.queue.finisher import Finisher
from serve_app.queue.gallery.gallery import PostgresGallery
from serve_app.queue.heartbeat import Heartbeats
from serve_app.queue.long_poll import LongPoll
from serve_app.queue.operations import PostgresOperations
from serve_app.queue.pool_history import PostgresPoolHistory
from serve_app.queue.reaper import Reaper
from serve_app.queue.removal import Removal
from serve_app.queue.request_log import PostgresPartialResults, RequestLog
from serve_app.queue.retention import RetentionByKind
from serve_app.queue.shadows.book import PostgresShadows
from serve_app.queue.state.canaries import COMPARE_EVERY_S
from serve_app.queue.state.preview_cache import PreviewCache
from serve_app.queue.state.quarantines import JUDGE_EVERY_S
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.state.warm import StoredWarmTargets
from serve_app.queue.store.config import QueueLimits, Retention
from serve_app.queue.store.diagnostics import MEASURE_EVERY_S, DatabaseMonitor
from serve_app.queue.store.notify import Notification
from serve_app.queue.store.stored_files import PostgresStoredFiles
from serve_app.queue.store.table_sizes import MEASURE_TABLES_EVERY_S, TableMonitor
from serve_app.queue.submitter import Submitter
from serve_app.queue.tenant_deletion import TenantDeletionJob
from serve_app.queue.transactions import snapshots
from serve_app.queue.transactions.garbage import GarbageFiles
from serve_app.queue.transactions.history import History
from serve_app.queue.transactions.idempotency import IdempotencyKeys
from serve_app.queue.transactions.usage import PostgresLedger, RealtimeSessions
from serve_app.queue.workflows.book import PostgresWorkflows
from serve_app.telemetry.queue_metrics import QueueMeter

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

RETENTION_EVERY_S = 60.0
OVERFLOW_EVERY_S = 5.0
"""Time of a leader's rounds. It looks more often, and is replaced after three of them."""
RARE_AFTER_S = 5.0
"""After this time a process that starts runs its rarer tasks for the first time. At once, their 25
statements took half of the CPU of a start, beside those that the first requests wait for."""

KNOWN_REST_S = 3.0
"""Period at rest of what is known of the replicas and of what waits. After 5 s without a look, a
process takes itself for one that stood still."""

RUNNING_ON = """
-- name: running_on
SELECT r.pool, count(*) FROM requests r JOIN processes p ON p.actor_id = r.actor_id
WHERE r.state = 'running' AND p.cluster = %(cluster)s GROUP BY r.pool
"""


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
    retention: Retention
    clock: Clock
    log: RequestLog
    operations: PostgresOperations
    deletions: TenantDeletionJob
    garbage: GarbageFiles
    monitor: DatabaseMonitor
    tables: TableMonitor
    election: LeaderElection
    metrics: QueueMeter


def assemble(
    database: Database,
    clock: Clock,
    terms: LeaseTerms,
    limits: QueueLimits,
    liveness: Liveness,
    ingress_id: str,
    metrics: QueueMeter | None = None,
    retention: Retention | None = None,
    reads: Database | None = None,
    rest: Rest | None = None,
) -> PostgresQueue:
    """Build the queue of one ingress process. Any number of them share a database whose tables are
    migrated.

    The caller starts and closes ``database``, which must outlive the queue, and ``reads``, which
    long reads of history use; None: the same. ``metrics``: None for none that are read.
    ``rest``: of this process; None: its periodic tasks never rest.
    """
    metrics = metrics or QueueMeter(CollectorRegistry())
    state = QueueState.create(database, clock, limits, terms, ingress_id, metrics)
    after = AfterCommit(database, limits, state, metrics)
    polls = LongPoll(database, limits, terms, state, after, metrics)
    state.waiters.on_work(polls.lease_soon)
    if rest is not None:
        rest.announce = state.notifier.notify
        rest.hears = lambda: state.notifier.listening
    garbage = GarbageFiles(database, terms)
    election = LeaderElection(database, clock, ingress_id)
    warm = StoredWarmTargets(database)
    kept = retention or Retention()
    long_reads = FairReads(reads or database)
    removal = Removal(database, kept, garbage, state.requests, after)
    operations = PostgresOperations(
        database, long_reads, limits, state.pauses, warm, removal, after, clock
    )
    parts = QueueParts(
        state=state,
        after=after,
        submitter=Submitter(database, limits, state, polls, after, metrics),
        polls=polls,
        heartbeats=Heartbeats(database, limits, terms, state, metrics),
        finisher=Finisher(database, limits, state.stats, after, metrics, clock),
        reaper=Reaper(database, limits, liveness, election, state, after, metrics),
        removal=removal,
        retention=kept,
        clock=clock,
        log=RequestLog(database, state.requests),
        operations=operations,
        deletions=TenantDeletionJob(database, removal, operations, garbage, after),
        garbage=garbage,
        monitor=DatabaseMonitor(database, clock, metrics, state.snapshots.note_transactions),
        tables=TableMonitor(reads or database, election, metrics),
        election=election,
        metrics=metrics,
    )
    return PostgresQueue(database, long_reads, limits, parts, rest)


class PostgresQueue:
    """Queue of one ingress process, made by ``assemble``. Its parts implement its methods."""

    def __init__(
        self,
        database: Database,
        reads: FairReads,
        limits: QueueLimits,
        parts: QueueParts,
        rest: Rest | None = None,
    ) -> None:
        self._database = database
        self._rest = rest or Rest()
        self._check_s = limits.check_interval_s
        self.parts = parts
        self._idempotency = IdempotencyKeys(database)
        self._tasks: list[PeriodicTask] = []
        state = parts.state

        # Calls by clients
        self.submit = parts.submitter.submit
        self.find_earlier = parts.submitter.find_earlier
        self.record_undelivered = self._idempotency.record_undelivered
        self.get = state.requests.get
        self.current = state.requests.current
        self.wait = state.requests.wait
        self.wait_for_change = state.requests.wait_for_change
        self.follow = state.requests.tenants.follow
        self.preview = PreviewCache(database, state.requests).preview
        self.waiting = state.stats.waiting
        self.estimate = state.stats.estimate
        self.usual_s = state.stats.usual_s
        self.ends_at = state.stats.ends_at
        self.log = parts.log.log
        self.lines = parts.log.lines
        self.page = History(reads).page
        self.cancel = parts.removal.cancel
        self.delete = parts.removal.delete
        sessions = RealtimeSessions(database, state.charges, limits, parts.metrics)
        self.open_sessions = sessions.open_sessions
        self.record_frame = sessions.record_frame
        self.operations = parts.operations
        self.ledger = PostgresLedger(reads)
        self.costs = PostgresCostBook(database, reads, parts.clock)
        self.pool_history = PostgresPoolHistory(database, reads, state.stats.demand)
        self.rollup = UsageRollup(database, parts.retention)
        self.by_kind = RetentionByKind(database, parts.retention)
        self.budgets = PostgresBudgets(database, limits)
        self.budget_left = self.budgets.remaining
        self.gallery = PostgresGallery(database, reads)
        self.stored_files = PostgresStoredFiles(reads, parts.clock)
        self.drafts = PostgresDrafts(database)
        self.partials = PostgresPartialResults(database, state.requests)
        self.batches = PostgresBatches(database, parts.retention)
        self.workflows = PostgresWorkflows(database, limits, state, parts.after)
        self.fallbacks = PostgresFallbacks(database, state, parts.after, parts.metrics)
        self.shadows = PostgresShadows(database, reads, parts.retention)
        self._overflow = Overflow(database, parts.clock, state, self.fallbacks)

        # Calls by replicas
        self.announce = parts.polls.announce
        self.ask = parts.polls.ask
        self.report = parts.heartbeats.report
        self.finish = parts.finisher.finish
        self.hand_back = parts.finisher.hand_back

    def record_spans(self, tracing: Tracing | None) -> None:
        """Record spans from now on; None: record none."""
        self.parts.polls.tracing = self.parts.after.tracing = tracing

    async def start(self) -> None:
        """Start the listener and the periodic tasks."""
        if self._tasks:
            return
        state, after = self.parts.state, self.parts.after
        state.notifier.start(self._on_notification, after.on_notification_gap)
        await state.stats.count()
        await state.stats.refresh()
        self._tasks = self._periodic_tasks()
        for task in self._tasks:
            task.start(self._rest)

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
        await self.partials.aclose()

    async def demand(self) -> Mapping[str, Demand]:
        """Demand by pool, for autoscaling. While there is any, this process does not rest."""
        stats = self.parts.state.stats
        demands = await stats.demand()
        waits = stats.any_waits or any(state.running for state in demands.values())
        if waits:
            self._rest.busy()
        return demands

    def _on_notification(self, notification: Notification) -> None:
        self._rest.busy()
        self.parts.after.on_notification(notification)

    async def running_on(self, cluster: str) -> Mapping[str, int]:
        """Running requests by pool, of the replicas of this Ray cluster whose start is logged."""
        rows = await self._database.rows(RUNNING_ON, {"cluster": cluster})
        return {str(pool): int(running) for pool, running in rows}

    def _periodic_tasks(self) -> list[PeriodicTask]:
        """Tasks that run beside each other; the functions of one task run one after the other."""
        parts, state, check_s = self.parts, self.parts.state, self._check_s
        reaper, removal = parts.reaper, parts.removal
        forget_snapshots = partial(snapshots.forget_ended, self._database)
        forget_undelivered = self._idempotency.forget_undelivered
        count_listeners = state.notifier.count_listeners
        elected = partial(parts.election.on_leader, "retention", RETENTION_EVERY_S)
        elected_to_move = parts.election.on_leader(
            "fallbacks", OVERFLOW_EVERY_S, self._overflow.look
        )
        elected_to_judge = parts.election.on_leader(
            "quarantines", JUDGE_EVERY_S, state.quarantines.judge
        )
        elected_to_compare = parts.election.on_leader(
            "canaries", COMPARE_EVERY_S, state.canaries.judge
        )
        elected_to_warn = parts.election.on_leader("budgets", WARN_EVERY_S, self.budgets.warn)
        elected_to_sample = partial(parts.election.on_leader, "samples", SAMPLE_EVERY_S)
        elected_to_seal = parts.election.on_leader("audit", SEAL_EVERY_S, parts.operations.log.seal)
        known: list[Mapping[str, Work]] = [
            {
                "write_replicas": state.replicas.flush,
                "refresh": state.stats.refresh,
                "reap": reaper.reap,
            },
            {"count": state.stats.count},
        ]
        rounds: list[tuple[float, Mapping[str, Work]]] = [
            (check_s, {"look_for_work": parts.polls.refresh, "record_idle": self._record_idle}),
            (
                check_s,
                {
                    "expire": reaper.expire,
                    "sweep_lanes": reaper.sweep_lanes,
                    "count_listeners": count_listeners,
                },
            ),
            (
                check_s,
                {
                    "end_dead_replicas": reaper.end_dead_replicas,
                    "read_quarantines": state.quarantines.refresh,
                    "read_canaries": state.canaries.refresh,
                },
            ),
            (JUDGE_EVERY_S, {"judge_losses": elected_to_judge}),
            (COMPARE_EVERY_S, {"compare_canaries": elected_to_compare}),
            (check_s, {"look_for_fronts": state.snapshots.look}),
            (
                check_s,
                {
                    "look_for_limits": state.running_limits.look,
                    "look_for_due": state.reordering.look,
                },
            ),
            (check_s, {"settle_coalesced": parts.after.settle}),
            (check_s, {"look_for_prefetches": state.prefetch.look}),
            (check_s, {"read_costs": state.costs.refresh, "write_charges": reaper.write_charges}),
            (
                10 * check_s,
                {
                    "forget_progress": reaper.forget_progress,
                    "forget_partial_results": self.partials.forget,
                    "forget_snapshots": forget_snapshots,
                    "forget_undelivered": forget_undelivered,
                    "index_new_words": self.gallery.index_new_words,
                    "expire_drafts": self.drafts.expire,
                },
            ),
            (check_s, {"list_garbage": parts.garbage.collect, "redact": removal.redact}),
            (
                MEASURE_EVERY_S,
                {"measure_database": parts.monitor.measure, "check_database": parts.tables.check},
            ),
            (MEASURE_TABLES_EVERY_S, {"measure_tables": parts.tables.measure}),
            (check_s, {"look_for_overflow": elected_to_move}),
            (WARN_EVERY_S, {"warn_of_budgets": elected_to_warn}),
            (
                SAMPLE_EVERY_S,
                {
                    "sample_replicas": elected_to_sample(self.costs.sample),
                    "sample_pools": elected_to_sample(self.pool_history.sample),
                },
            ),
            (SEAL_EVERY_S, {"seal_audit": elected_to_seal}),
            (
                RETENTION_EVERY_S,
                {
                    "delete_aged": elected(removal.delete_aged),
                    "delete_expired_keys": elected(removal.delete_expired_keys),
                    "delete_audit": elected(partial(parts.operations.log.prune, parts.retention)),
                    "delete_aged_batches": elected(self.batches.delete_aged),
                    "forget_batch_lines": elected(self.batches.work.forget_lines),
                    "roll_up_usage": elected(self.rollup.roll_up),
                    "erase_prompts": elected(self.by_kind.erase_prompts),
                    "delete_aged_files": elected(self.by_kind.delete_files),
                    "delete_aged_webhooks": elected(self.by_kind.delete_deliveries),
                    "delete_aged_usage": elected(self.by_kind.delete_usage),
                    "tidy_shadows": elected(self.shadows.tidy),
                },
            ),
        ]
        return [
            *(PeriodicTask(check_s, work, parts.metrics, KNOWN_REST_S) for work in known),
            *(
                PeriodicTask(
                    every_s,
                    work,
                    parts.metrics,
                    first_after_s=min(every_s, RARE_AFTER_S) if every_s > check_s else 0.0,
                )
                for every_s, work in rounds
            ),
        ]

    async def _record_idle(self) -> None:
        """Record what waits for work in this process, and the replicas."""
        state = self.parts.state
        self.parts.metrics.idle(state.waiters.idle())
        self.parts.metrics.replicas(state.stats.stages())
        self.parts.metrics.gpu_memory(state.replicas.gpu_memory())
        self.parts.metrics.weights(state.replicas.weights())
        self.parts.metrics.replica_info(state.replicas.places())
