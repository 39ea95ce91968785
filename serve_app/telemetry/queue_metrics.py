"""Metrics of the queue: requests, attempts, polls, and the condition of its database tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from serve_app.domain.lease import Demand
from serve_app.domain.request import State
from serve_app.telemetry.families import LATENCY_S, Declared, DeclaredHistograms, Families

RUN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
WAIT_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
START_S = (0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

COUNTERS: Declared = {
    "requests": ("Requests that entered a state.", ("endpoint", "state")),
    "attempts": ("Attempts that ended, by how.", ("pool", "end")),
    "node_failures": (
        "Attempts that did not end well, by the node of their replica.",
        ("node", "pool", "end"),
    ),
    "fallbacks": (
        "Requests that fell back to another endpoint: `max_wait`, `deadline` or `failure`.",
        ("endpoint", "reason"),
    ),
    "shadows": (
        "Requests of which a copy was sent to a shadow, or skipped, by result.",
        ("endpoint", "result"),
    ),
    "failures": ("Requests that failed or expired, by error code.", ("endpoint", "code")),
    "usage_seconds": (
        "Run time that was recorded as usage, by configured tenant or `other`.",
        ("tenant",),
    ),
    "leases_expired": ("Leases that ran out before they were renewed.", ("pool",)),
    "fenced": ("Calls for an attempt that its replica had lost, by call.", ("call",)),
    "replays": ("Submits that got an earlier request by its idempotency key.", ("endpoint",)),
    "reused": ("Requests that got the outcome of an earlier one.", ("endpoint",)),
    "coalesced": ("Requests that wait for another's outcome.", ("endpoint",)),
    "weights_loads": (
        "Times that an endpoint's weights came onto a replica's device, by where they were.",
        ("pool", "endpoint", "source"),
    ),
    "notifications": (
        "Messages between ingress replicas about changes, by direction.",
        ("direction",),
    ),
    "task_failures": ("Rounds of a periodic task that failed.", ("task",)),
    "jobs": (
        "Attempts of background jobs that ended: `done`, `waiting`, `retried` or `given_up`.",
        ("kind", "result"),
    ),
}
REPLICA = "pool", "replica", "node", "device"
GAUGES: Declared = {
    "queued": ("Queued requests.", ("pool",)),
    "running": ("Active leases.", ("pool",)),
    "oldest_wait_seconds": ("Age of the oldest queued request.", ("pool",)),
    "polls_waiting": ("Lease polls that wait for work.", ("pool",)),
    "idle_slots": ("Free slots of the lease polls that wait.", ("pool",)),
    "replicas": ("Replicas seen recently, by stage.", ("pool", "stage")),
    "pool_min_replicas": ("Least replicas of a pool, by its settings.", ("pool",)),
    "pool_max_replicas": ("Most replicas of a pool, by its settings.", ("pool",)),
    "pool_target_replicas": ("Replicas that the scaling policy wants.", ("pool",)),
    "pool_warm_replicas": ("Replicas that warm targets need.", ("pool",)),
    "warm_target_replicas": (
        "Replicas that should hold the weights of an endpoint, by its warm target.",
        ("pool", "endpoint"),
    ),
    "warm_ready_replicas": (
        "Ready replicas that hold the weights of a warm target at its level.",
        ("pool", "endpoint"),
    ),
    "quarantined_node_losses": (
        "How often a node that is quarantined has lost attempts. Others have no series.",
        ("node",),
    ),
    "canary_returned": (
        "1 for a canary that has returned because it did worse, 0 for one that runs.",
        ("pool",),
    ),
    "replica_info": ("Replica, with its node and the name of its GPU.", REPLICA),
    "weights_replicas": (
        "Replicas that hold the weights of an endpoint on their device or in host memory.",
        ("pool", "endpoint", "place"),
    ),
    "gpu_memory_bytes": ("Memory of a replica's GPU.", ("pool", "replica")),
    "gpu_memory_free_bytes": (
        "Memory of a replica's GPU that it can still use for weights and computing.",
        ("pool", "replica"),
    ),
    "task_last_success_timestamp_seconds": (
        "Time of the last round of a periodic task that succeeded in this process.",
        ("task",),
    ),
    "database_oldest_transaction_seconds": (
        "Age of the oldest open or prepared transaction of the database.",
        (),
    ),
    "database_held_back_transactions": (
        (
            "Transactions newer than the oldest snapshot in use. Vacuum cannot remove rows that "
            "they deleted."
        ),
        (),
    ),
    "database_transaction_id_age": (
        "Transactions since the oldest frozen one. PostgreSQL stops at 2^31.",
        (),
    ),
    "database_clock_ahead_seconds": (
        "Seconds by which the database's clock is ahead of this process's.",
        (),
    ),
    "database_standbys": ("Standbys that replicate from the database now.", ()),
    "database_standby_lag_bytes": (
        "Write-ahead log that a standby has not stored: what a failover to it would lose.",
        ("standby",),
    ),
    "last_backup_timestamp_seconds": (
        "Time of the database in the last complete `darkroom backup`; 0: never.",
        (),
    ),
    "recovery_armed": (
        (
            "1 while leases that have run out are taken back; 0 until the database has answered "
            "for one lease period."
        ),
        (),
    ),
    "jobs_due": ("Background jobs that wait to be taken, counted up to 10000.", ("kind",)),
    "jobs_running": ("Background jobs that this process runs.", ("kind",)),
    "jobs_oldest_seconds": (
        "How long the job that waits longest has been due; 0: none waits.",
        ("kind",),
    ),
    "jobs_given_up": ("Jobs that were given up in the last 30 days.", ("kind",)),
    "schema_version": ("Number of the last applied migration.", ()),
    "table_rows": ("Estimated rows of a table.", ("table",)),
    "table_dead_rows": ("Estimated rows that vacuum has yet to remove.", ("table",)),
    "table_bytes": ("Size of a table with its indexes.", ("table",)),
    "table_last_vacuum_timestamp_seconds": (
        "Time of the last vacuum of a table; 0: never.",
        ("table",),
    ),
}
_OF_A_POOL = "queued", "running", "oldest_wait_seconds", "polls_waiting", "idle_slots"
_ALERTING_ENDS = "lost", "interrupted", "out_of_time"  # in docs/how-to/darkroom-alerts.yaml
_NODE_ENDS = (*_ALERTING_ENDS, "failed", "retry", "died")
JOB_RESULTS = "done", "waiting", "retried", "given_up"
MAX_NODES = 500
"""Nodes with series of their own. Nodes come and go: a new one replaces that which was seen the
longest ago."""
HISTOGRAMS: DeclaredHistograms = {
    "notification_seconds": (
        "Time from a change to the message about it in another ingress replica.",
        (),
        LATENCY_S,
    ),
    "batch_size": ("Calls that share a statement, by call.", ("call",), BATCH_SIZES),
    "wait_seconds": (
        "Time from the submit of a request to the start of its first attempt.",
        ("endpoint", "pool"),
        WAIT_S,
    ),
    "total_seconds": (
        "Time from the submit of a request to its success.",
        ("endpoint", "pool"),
        WAIT_S,
    ),
    "run_seconds": ("Wall time of an attempt on its replica.", ("endpoint",), RUN_S),
    "cold_start_seconds": (
        "Time of a stage of a cold start, as the process saw it.",
        ("pool", "stage"),
        START_S,
    ),
    "task_seconds": ("Time of a round of a periodic task.", ("task",), LATENCY_S),
}


@dataclass(frozen=True, slots=True)
class TableSize:
    """Size of a table, by PostgreSQL's statistics."""

    table: str
    rows: int
    dead_rows: int
    size_bytes: int  # with indexes and out-of-line values
    vacuumed_at: float  # Unix time; 0: never


@dataclass(frozen=True, slots=True)
class JobFigures:
    """Jobs of a kind."""

    due: int
    oldest_s: float  # how long the first of them has been due
    given_up: int
    running: int = 0  # in this process


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a replica's GPU, in bytes; of several, of the first one."""

    pool: str
    total: int
    free: int  # also what torch keeps and does not use


class QueueMeter:
    """The methods take microseconds, wait for nothing and never raise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.families = Families(registry, COUNTERS, GAUGES, HISTOGRAMS)
        self._counters = self.families.counters
        self._gauges = self.families.gauges
        self._histograms = self.families.histograms
        self._nodes: dict[str, set[str]] = {}  # node → pools; the last one was seen last

    # Requests and attempts

    def count_entry(self, endpoint: str, state: State) -> None:
        """Count a request that entered ``state``."""
        self._counters["requests"].labels(endpoint, state.value).inc()

    def fell_back(self, endpoint: str, reason: str) -> None:
        """Count a request that fell back to another endpoint."""
        self._counters["fallbacks"].labels(endpoint, reason).inc()

    def count_shadow(self, endpoint: str, result: str) -> None:
        """Count a request of which a copy was ``sent``, or ``skipped``."""
        self._counters["shadows"].labels(endpoint, result).inc()

    def record_start(self, endpoint: str, pool: str, wait_s: float) -> None:
        """Record the start of a request's first attempt, ``wait_s`` after its submit."""
        self._histograms["wait_seconds"].labels(endpoint, pool).observe(max(0.0, wait_s))

    def record_end(
        self, endpoint: str, pool: str, state: State, run_s: float, total_s: float, code: str | None
    ) -> None:
        """Record the state of a request after an attempt, or after it left the queue.

        ``run_s``: of the attempt; 0 without one. ``total_s``: since the submit. ``code``: of its
        error, if it failed or expired.
        """
        self.count_entry(endpoint, state)
        if run_s:
            self._histograms["run_seconds"].labels(endpoint).observe(run_s)
        if state is State.SUCCEEDED:
            self._histograms["total_seconds"].labels(endpoint, pool).observe(max(0.0, total_s))
        if code is not None:
            self._counters["failures"].labels(endpoint, code).inc()

    def add_run_time(self, tenant: str, run_s: float) -> None:
        """Add recorded run time. ``tenant``: one of few, see ``QueueLimits.metrics_label``."""
        self._counters["usage_seconds"].labels(tenant).inc(max(0.0, run_s))

    def attempt_ended(self, pool: str, end: str, node: str = "") -> None:
        """Count an attempt by how it ended: a value of ``EndReason``. ``node``: address of its
        replica's machine; empty: not known."""
        self._counters["attempts"].labels(pool, end).inc()
        if node and end in _NODE_ENDS:
            self._node_seen(node, pool)
            self._counters["node_failures"].labels(node, pool, end).inc()

    def _node_seen(self, node: str, pool: str) -> None:
        """Export a node's failures, with 0 before the first one: see ``Families.counters``."""
        pools = self._nodes.pop(node, set())
        self._nodes[node] = pools
        family = self._counters["node_failures"]
        if pool not in pools:
            pools.add(pool)
            for end in _NODE_ENDS:
                family.labels(node, pool, end)
        if len(self._nodes) > MAX_NODES:
            oldest = next(iter(self._nodes))
            for gone in self._nodes.pop(oldest):
                for end in _NODE_ENDS:
                    family.remove(oldest, gone, end)

    def lease_expired(self, pool: str) -> None:
        self._counters["leases_expired"].labels(pool).inc()

    def count_fenced(self, call: str, number: int = 1) -> None:
        """Count refused attempts by the replica's call: ``finish``, ``hand_back``, ``report``."""
        if number:
            self._counters["fenced"].labels(call).inc(number)

    def count_replay(self, endpoint: str) -> None:
        self._counters["replays"].labels(endpoint).inc()

    def count_reuse(self, endpoint: str) -> None:
        self._counters["reused"].labels(endpoint).inc()

    def count_coalesced(self, endpoint: str) -> None:
        self._counters["coalesced"].labels(endpoint).inc()

    def batch(self, call: str, size: int) -> None:
        """Record a statement that serves ``size`` calls: ``submit`` or ``finish``."""
        self._histograms["batch_size"].labels(call).observe(size)

    # Notifications

    def notification_sent(self) -> None:
        self._counters["notifications"].labels("sent").inc()

    def notification_lost(self) -> None:
        """Count a message that could not be sent. The others see the change within a second."""
        self._counters["notifications"].labels("lost").inc()

    def notification_received(self, delay_s: float | None) -> None:
        """Count a message of another process. ``delay_s``: since the change; None if not known."""
        self._counters["notifications"].labels("received").inc()
        if delay_s is not None:
            self._histograms["notification_seconds"].observe(max(0.0, delay_s))

    # State

    def depth(self, demand: Mapping[str, Demand]) -> None:
        """Record the current demand of each pool. A pool that is not named has none any more."""
        replace = self.families.replace
        replace("queued", {(pool,): now.queued for pool, now in demand.items()})
        replace("running", {(pool,): now.running for pool, now in demand.items()})
        replace("oldest_wait_seconds", {(pool,): now.oldest_wait_s for pool, now in demand.items()})

    def idle(self, polls: Mapping[str, tuple[int, int]]) -> None:
        """Record the polls that wait in this process, and their free slots, by pool."""
        self.families.replace("polls_waiting", {(pool,): n for pool, (n, _) in polls.items()})
        self.families.replace("idle_slots", {(pool,): free for pool, (_, free) in polls.items()})

    def replicas(self, number: Mapping[tuple[str, str], int]) -> None:
        """Record the replicas by pool and stage."""
        self.families.replace("replicas", number)

    def pools(self, bounds: Mapping[str, tuple[int, int]]) -> None:
        """Record the least and most replicas of all configured pools, and export their figures from
        now on, also while they have neither requests nor replicas."""
        for name in ("pool_min_replicas", "pool_max_replicas"):
            self._gauges[name].clear()
        for pool, (least, most) in bounds.items():
            self._gauges["pool_min_replicas"].labels(pool).set(least)
            self._gauges["pool_max_replicas"].labels(pool).set(most)
            for gauge in _OF_A_POOL:
                self.families.expect(gauge, pool)
            self.families.expect("replicas", pool, "ready")
            for end in _ALERTING_ENDS:
                self._counters["attempts"].labels(pool, end)  # 0: see Families.counters

    def scaling(self, desired: Mapping[str, int], warm: Mapping[str, int]) -> None:
        """Record the replicas that the policies want, and those that warm targets need, by pool."""
        self.families.exactly("pool_target_replicas", {(pool,): n for pool, n in desired.items()})
        self.families.exactly("pool_warm_replicas", {(pool,): n for pool, n in warm.items()})

    def warm_targets(self, targets: Mapping[tuple[str, str], tuple[int, int]]) -> None:
        """Record the wanted and the ready replicas of warm targets, by pool and endpoint."""
        exactly = self.families.exactly
        exactly("warm_target_replicas", {key: wanted for key, (wanted, _) in targets.items()})
        exactly("warm_ready_replicas", {key: ready for key, (_, ready) in targets.items()})

    def replica_info(self, replicas: Collection[tuple[str, str, str, str]]) -> None:
        """Record the replicas with their pool, id, node and device."""
        self.families.exactly("replica_info", dict.fromkeys(replicas, 1))
        for pool, _, node, _ in replicas:
            if node:
                self._node_seen(node, pool)

    def record_quarantines(self, losses: Mapping[str, int]) -> None:
        """Record the nodes that are quarantined, with how often each has lost attempts."""
        self.families.exactly(
            "quarantined_node_losses", {(node,): float(n) for node, n in losses.items()}
        )

    def canaries(self, returned: Mapping[str, bool]) -> None:
        """Record the canaries, and whether each has returned."""
        self.families.exactly(
            "canary_returned", {(pool,): float(is_so) for pool, is_so in returned.items()}
        )

    def weights(self, replicas: Mapping[tuple[str, str, str], int]) -> None:
        """Record the replicas by pool, endpoint and the place of its weights. Those that are not
        named are exported no more."""
        self.families.exactly("weights_replicas", replicas)

    def count_weights_load(self, pool: str, endpoint: str, *, from_host: bool) -> None:
        """Count an endpoint whose weights a replica has loaded since its last poll."""
        source = "host" if from_host else "disk"
        self._counters["weights_loads"].labels(pool, endpoint, source).inc()

    def cold_start(self, pool: str, stage: str, took_s: float) -> None:
        """Record a stage of a cold start that has ended: a value of ``ColdStage``."""
        self._histograms["cold_start_seconds"].labels(pool, stage).observe(took_s)

    def gpu_memory(self, known: Mapping[str, GpuMemory]) -> None:
        """Record the GPU memory by replica. Replicas that are not named are exported no more."""
        named = [((memory.pool, replica), memory) for replica, memory in known.items()]
        self.families.exactly("gpu_memory_bytes", {key: memory.total for key, memory in named})
        self.families.exactly("gpu_memory_free_bytes", {key: memory.free for key, memory in named})

    # Periodic tasks

    def task_succeeded(self, task: str, elapsed_s: float) -> None:
        self._gauges["task_last_success_timestamp_seconds"].labels(task).set_to_current_time()
        self._histograms["task_seconds"].labels(task).observe(elapsed_s)

    def task_failed(self, task: str) -> None:
        self._counters["task_failures"].labels(task).inc()

    # Jobs

    def job_kinds(self, kinds: Iterable[str]) -> None:
        """Name the kinds of jobs that this process runs."""
        for kind in kinds:
            for result in JOB_RESULTS:
                self._counters["jobs"].labels(kind, result)  # 0: see Families.counters

    def jobs_ended(self, kind: str, result: str, number: int) -> None:
        """Count attempts of jobs that ended."""
        self._counters["jobs"].labels(kind, result).inc(number)

    def jobs(self, kinds: Mapping[str, JobFigures]) -> None:
        """Record the jobs of all kinds."""
        for kind, figures in kinds.items():
            self._gauges["jobs_due"].labels(kind).set(figures.due)
            self._gauges["jobs_running"].labels(kind).set(figures.running)
            self._gauges["jobs_oldest_seconds"].labels(kind).set(figures.oldest_s)
            self._gauges["jobs_given_up"].labels(kind).set(figures.given_up)

    # Database

    def oldest_transaction(self, oldest_s: float, transactions: int) -> None:
        """Record what keeps the database from vacuuming: the age of the oldest open transaction,
        and how many began since the oldest snapshot that must be kept; 0: none.
        """
        self._gauges["database_oldest_transaction_seconds"].set(oldest_s)
        self._gauges["database_held_back_transactions"].set(transactions)

    def database(self, schema_version: int, transaction_id_age: int) -> None:
        self._gauges["schema_version"].set(schema_version)
        self._gauges["database_transaction_id_age"].set(transaction_id_age)

    def database_clock(self, ahead_s: float) -> None:
        self._gauges["database_clock_ahead_seconds"].set(ahead_s)

    def standbys(self, lags: Sequence[tuple[str, int]]) -> None:
        """Record the standbys with their lags in bytes."""
        self._gauges["database_standbys"].set(len(lags))
        self.families.exactly("database_standby_lag_bytes", {(name,): lag for name, lag in lags})

    def backup(self, at: float) -> None:
        """Record the Unix time of the last backup; 0: never."""
        self._gauges["last_backup_timestamp_seconds"].set(at)

    def recovery(self, *, armed: bool) -> None:
        """Record whether expired leases are taken back."""
        self._gauges["recovery_armed"].set(armed)

    def tables(self, sizes: Sequence[TableSize]) -> None:
        """Record the sizes of the tables. Without any, another process reports them."""
        only = self.families.only
        only("table_rows", {(size.table,): size.rows for size in sizes})
        only("table_dead_rows", {(size.table,): size.dead_rows for size in sizes})
        only("table_bytes", {(size.table,): size.size_bytes for size in sizes})
        only(
            "table_last_vacuum_timestamp_seconds",
            {(size.table,): size.vacuumed_at for size in sizes},
        )
