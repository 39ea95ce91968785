"""What Darkroom counts, for Prometheus. The registry is given: nothing global."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Thread
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Computed, Demand
from serve_app.domain.request import State
from serve_app.domain.webhook import Backlog

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
RUN_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
    """Counters and histograms over one registry. Methods take microseconds and never raise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "darkroom_requests",
            "Requests that entered a state.",
            ("endpoint", "state"),
            registry=registry,
        )
        self._run = Histogram(
            "darkroom_run_seconds",
            "Wall time of an attempt on its replica.",
            ("endpoint",),
            buckets=RUN_S,
            registry=registry,
        )
        self._http = Histogram(
            "darkroom_http_seconds",
            "Time from a call's arrival to the end of its answer.",
            ("route", "status"),
            buckets=LATENCY_S,
            registry=registry,
        )
        self._unexpected = Counter(
            "darkroom_unexpected_errors",
            "Errors that no code expected; each is in the log with its traceback.",
            ("route",),
            registry=registry,
        )
        self._queued = Gauge("darkroom_queued", "Waiting requests.", ("pool",), registry=registry)
        self._running = Gauge("darkroom_running", "Leases held.", ("pool",), registry=registry)
        self._steps = Counter(
            "darkroom_steps", "Denoising steps of all generations.", ("pool",), registry=registry
        )
        self._forwards = Counter(
            "darkroom_forwards",
            "Forwards, by what was called and how many generations' calls they served.",
            ("pool", "part", "calls"),
            registry=registry,
        )
        self._not_merged = Counter(
            "darkroom_not_merged_calls",
            "Calls that had a forward to themselves, by what was called and the reason.",
            ("pool", "part", "reason"),
            registry=registry,
        )
        self._seconds = Counter(
            "darkroom_engine_seconds",
            "Seconds that devices computed, by family and by the stage of the generation.",
            ("pool", "family", "stage"),
            registry=registry,
        )
        self._sessions = Gauge(
            "darkroom_realtime_sessions", "Open sessions.", ("endpoint",), registry=registry
        )
        self._frames = Counter(
            "darkroom_realtime_frames",
            "Frames of realtime sessions, by what became of them.",
            ("endpoint", "end"),
            registry=registry,
        )
        self._frame_s = Histogram(
            "darkroom_realtime_frame_seconds",
            "From when a frame's turn came until its answer was sent.",
            ("endpoint",),
            buckets=LATENCY_S,
            registry=registry,
        )
        self._oldest = Gauge(
            "darkroom_oldest_wait_seconds",
            "Age of the oldest waiting request.",
            ("pool",),
            registry=registry,
        )

        self._webhooks = Counter(
            "darkroom_webhooks",
            "Webhooks: delivered, failed (to be tried again), dead; before the end: told, lost.",
            ("result",),
            registry=registry,
        )
        self._webhooks_pending = Gauge(
            "darkroom_webhooks_pending", "Webhooks that are not delivered yet.", registry=registry
        )
        self._webhooks_oldest = Gauge(
            "darkroom_webhooks_oldest_seconds",
            "For how long the oldest of them is pending.",
            registry=registry,
        )

        self._oldest_transaction = Gauge(
            "darkroom_database_oldest_transaction_seconds",
            "Age of the oldest open or prepared transaction of the database.",
            registry=registry,
        )
        self._held_back = Gauge(
            "darkroom_database_held_back_transactions",
            "Transactions since the oldest that somebody may still look at: nothing that was "
            "deleted since is cleared away.",
            registry=registry,
        )

    def entered(self, endpoint: str, state: State) -> None:
        """A request reached ``state``."""
        self._requests.labels(endpoint, state.value).inc()

    def ended(self, endpoint: str, state: State, run_s: float) -> None:
        """An attempt of ``endpoint`` ended after ``run_s``, or a queued request left the queue."""
        self.entered(endpoint, state)
        if run_s:
            self._run.labels(endpoint).observe(run_s)

    def answered(self, route: str, status: int, elapsed_s: float) -> None:
        """A call was answered. ``route`` is a name of ours, never a path that a client chose."""
        self._http.labels(route, str(status)).observe(elapsed_s)

    def computed(self, pool: str, done: Computed) -> None:
        """A replica of ``pool`` told what its engine has done."""
        self._steps.labels(pool).inc(done.steps)
        for (part, calls), forwards in done.forwards.items():
            self._forwards.labels(pool, part, str(calls)).inc(forwards)
        for (part, reason), calls in done.not_merged.items():
            self._not_merged.labels(pool, part, reason).inc(calls)
        for (family, stage), seconds in done.seconds.items():
            self._seconds.labels(pool, family, stage).inc(seconds)

    def session_opened(self, endpoint: str) -> None:
        self._sessions.labels(endpoint).inc()

    def session_ended(self, endpoint: str) -> None:
        self._sessions.labels(endpoint).dec()

    def frame(self, endpoint: str, end: str) -> None:
        """``end``: drawn, failed, dropped for a newer one, or refused."""
        self._frames.labels(endpoint, end).inc()

    def drew(self, endpoint: str, elapsed_s: float) -> None:
        self._frame_s.labels(endpoint).observe(elapsed_s)

    def unexpected(self, route: str) -> None:
        self._unexpected.labels(route).inc()

    def webhook(self, result: str) -> None:
        """``delivered``, ``failed`` or ``dead``; ``told`` or ``lost``."""
        self._webhooks.labels(result).inc()

    def webhooks(self, backlog: Backlog) -> None:
        self._webhooks_pending.set(backlog.pending)
        self._webhooks_oldest.set(backlog.oldest_s)

    def held_back(self, oldest_s: float, transactions: int) -> None:
        """How the database is. See ``Observer``."""
        self._oldest_transaction.set(oldest_s)
        self._held_back.set(transactions)

    def depth(self, demand: Mapping[str, Demand]) -> None:
        """What each pool has to do now."""
        for pool, now in demand.items():
            self._queued.labels(pool).set(now.queued)
            self._running.labels(pool).set(now.running)
            self._oldest.labels(pool).set(now.oldest_wait_s)


class MetricsServer:
    """Serves a registry to Prometheus on a port of loopback. ``port`` 0 takes a free one."""

    def __init__(self, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> None:
        self._registry = registry
        self._wanted = port
        self._host = host
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """The port that is bound; 0 before the start."""
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
                f"The metrics port {self._wanted} cannot be bound ({error.strerror}). "
                "Set DARKROOM_METRICS_PORT to a free one, or to 0 for any."
            ) from error

    def close(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._server = self._thread = None
