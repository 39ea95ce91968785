"""Prometheus metrics of Darkroom. The registry is an argument, so nothing is global."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Thread
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Demand, EngineUsage
from serve_app.domain.request import State
from serve_app.domain.webhook import WebhookBacklog

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
RUN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)

PREFIX = "darkroom_"

COUNTERS: Mapping[str, tuple[str, Sequence[str]]] = {
    "requests": ("Requests that entered a state.", ("endpoint", "state")),
    "unexpected_errors": ("Unexpected errors; each is in the log with its traceback.", ("route",)),
    "steps": ("Denoising steps of all generations.", ("pool",)),
    "forwards": (
        "Forward passes, by component and by the number of merged calls.",
        ("pool", "part", "calls"),
    ),
    "not_merged_calls": (
        "Calls that were not merged with others, by component and reason.",
        ("pool", "part", "reason"),
    ),
    "engine_seconds": (
        "Device time in seconds, by family and stage of the generation.",
        ("pool", "family", "stage"),
    ),
    "realtime_frames": ("Frames of realtime sessions, by outcome.", ("endpoint", "end")),
    "webhooks": (
        "Webhook calls: delivered, failed (will be retried) or dead; progress: told or lost.",
        ("result",),
    ),
}
GAUGES: Mapping[str, tuple[str, Sequence[str]]] = {
    "queued": ("Queued requests.", ("pool",)),
    "running": ("Active leases.", ("pool",)),
    "realtime_sessions": ("Open realtime sessions.", ("endpoint",)),
    "oldest_wait_seconds": ("Age of the oldest queued request.", ("pool",)),
    "webhooks_pending": ("Webhooks that are not delivered yet.", ()),
    "webhooks_oldest_seconds": ("Age of the oldest pending webhook.", ()),
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
}
HISTOGRAMS: Mapping[str, tuple[str, Sequence[str], Sequence[float]]] = {
    "run_seconds": ("Wall time of an attempt on its replica.", ("endpoint",), RUN_S),
    "http_seconds": (
        "Time from a call's arrival to the end of its response.",
        ("route", "status"),
        LATENCY_S,
    ),
    "realtime_frame_seconds": (
        "Time from the start of a realtime frame to the end of its response.",
        ("endpoint",),
        LATENCY_S,
    ),
}
"""Metrics by name, without ``PREFIX``: description, labels, buckets."""


class Metrics:
    """Metrics in one registry. The methods take microseconds and never raise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._pools: set[str] = set()  # that had a demand
        self._counters = {
            name: Counter(f"{PREFIX}{name}", text, labels, registry=registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"{PREFIX}{name}", text, labels, registry=registry)
            for name, (text, labels) in GAUGES.items()
        }
        self._histograms = {
            name: Histogram(f"{PREFIX}{name}", text, labels, buckets=buckets, registry=registry)
            for name, (text, labels, buckets) in HISTOGRAMS.items()
        }

    def entered(self, endpoint: str, state: State) -> None:
        """Count a request that entered ``state``."""
        self._counters["requests"].labels(endpoint, state.value).inc()

    def ended(self, endpoint: str, state: State, run_s: float) -> None:
        """Record the end of an attempt after ``run_s``, or of a request that left the queue."""
        self.entered(endpoint, state)
        if run_s:
            self._histograms["run_seconds"].labels(endpoint).observe(run_s)

    def answered(self, route: str, status: int, elapsed_s: float) -> None:
        """Record a response. ``route`` is a fixed name, never a path that a client chose."""
        self._histograms["http_seconds"].labels(route, str(status)).observe(elapsed_s)

    def computed(self, pool: str, done: EngineUsage) -> None:
        """Add the work that a replica of ``pool`` has reported."""
        self._counters["steps"].labels(pool).inc(done.steps)
        for (part, calls), forwards in done.forwards.items():
            self._counters["forwards"].labels(pool, part, str(calls)).inc(forwards)
        for (part, reason), calls in done.not_merged.items():
            self._counters["not_merged_calls"].labels(pool, part, reason).inc(calls)
        for (family, stage), seconds in done.seconds.items():
            self._counters["engine_seconds"].labels(pool, family, stage).inc(seconds)

    def session_opened(self, endpoint: str) -> None:
        self._gauges["realtime_sessions"].labels(endpoint).inc()

    def session_ended(self, endpoint: str) -> None:
        self._gauges["realtime_sessions"].labels(endpoint).dec()

    def frame(self, endpoint: str, end: str) -> None:
        """Count a frame by ``end``: drawn, failed, dropped for a newer one, or refused."""
        self._counters["realtime_frames"].labels(endpoint, end).inc()

    def frame_generated(self, endpoint: str, elapsed_s: float) -> None:
        self._histograms["realtime_frame_seconds"].labels(endpoint).observe(elapsed_s)

    def unexpected(self, route: str) -> None:
        self._counters["unexpected_errors"].labels(route).inc()

    def webhook(self, result: str) -> None:
        """Count a call by result: ``delivered``, ``failed`` or ``dead``; ``told`` or ``lost``."""
        self._counters["webhooks"].labels(result).inc()

    def webhooks(self, backlog: WebhookBacklog) -> None:
        self._gauges["webhooks_pending"].set(backlog.pending)
        self._gauges["webhooks_oldest_seconds"].set(backlog.oldest_s)

    def oldest_transaction(self, oldest_s: float, transactions: int) -> None:
        """Record what keeps the database from vacuuming. See ``Observer``."""
        self._gauges["database_oldest_transaction_seconds"].set(oldest_s)
        self._gauges["database_held_back_transactions"].set(transactions)

    def depth(self, demand: Mapping[str, Demand]) -> None:
        """Record the current demand of each pool. A pool that is not named has none any more."""
        gone = dict.fromkeys(self._pools - demand.keys(), Demand())
        self._pools |= demand.keys()
        for pool, now in (gone | {**demand}).items():
            self._gauges["queued"].labels(pool).set(now.queued)
            self._gauges["running"].labels(pool).set(now.running)
            self._gauges["oldest_wait_seconds"].labels(pool).set(now.oldest_wait_s)


class MetricsServer:
    """HTTP server of a registry for Prometheus. ``port`` 0 selects a free port."""

    def __init__(self, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> None:
        self._registry = registry
        self._wanted = port
        self._host = host
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """Bound port; 0 before the start."""
        return self._server.server_port if self._server else 0

    def start(self) -> None:
        if self._server is not None:
            return
        try:
            self._server, self._thread = start_http_server(
                self._wanted, addr=self._host, registry=self._registry
            )
        except OSError as error:
            raise Misconfigured(
                f"The metrics port {self._wanted} on {self._host} cannot be opened "
                f"({error.strerror}). Set DARKROOM_METRICS_PORT to a free port, or to 0 for any "
                "free port, and DARKROOM_METRICS_HOST to an address of this machine."
            ) from error

    def close(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._server = self._thread = None
