"""Prometheus metrics of Darkroom. The registry is an argument, so nothing is global."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics import MetricWrapperBase

from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.lease import EngineUsage
from serve_app.domain.webhook import WebhookBacklog
from serve_app.telemetry.database_metrics import DatabaseMetrics
from serve_app.telemetry.families import LATENCY_S, Declared, DeclaredHistograms, Families
from serve_app.telemetry.queue_metrics import QueueMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from wsgiref.simple_server import WSGIServer

MAX_PORT = 65535
STORAGE_FAILURES = "storage_unavailable", "storage_full", "timeout", "no_answer", "error"
"""Results of calls of storage of which an alert sees the first one. Replicas have all of them."""

COUNTERS: Declared = {
    "unexpected_errors": ("Unexpected errors; each is in the log with its traceback.", ("route",)),
    "refused": (
        "Calls refused for lack of capacity or a service, by status and reason.",
        ("status", "reason"),
    ),
    "steps": ("Denoising steps of all generations.", ("pool",)),
    "forwards": (
        "Forward passes, by component and by the number of merged calls.",
        ("pool", "part", "calls"),
    ),
    "not_merged_calls": (
        "Calls that were not merged with others, by component and reason.",
        ("pool", "part", "reason"),
    ),
    "parallel_calls": (
        "Denoiser calls of replicas with several devices, by how the devices divided them.",
        ("pool", "way"),
    ),
    "engine_seconds": (
        "Device time in seconds, by family and stage of the generation.",
        ("pool", "family", "stage"),
    ),
    "realtime_frames": ("Frames of realtime sessions, by outcome.", ("endpoint", "end")),
    "storage_calls": (
        "Calls of storage by this process, and those that replicas reported to it, by result.",
        ("caller", "call", "result"),
    ),
    "storage_seconds": (
        "Time of replicas' calls of storage in seconds, by result.",
        ("call", "result"),
    ),
    "upload_bytes": ("Bytes of stored files, by sender: client or replica.", ("sender",)),
    "spans": (
        "Spans by result: exported, or dropped; not_reported counts attempts of replicas.",
        ("result",),
    ),
    "signed_files": (
        "Output files by result: signed, refused a signature, or delivered unsigned.",
        ("result",),
    ),
    "safety_decisions": (
        "Decisions of the safety policy that something is not delivered as it is.",
        ("of", "action"),
    ),
    "webhooks": (
        "Webhook calls: delivered, failed (will be retried) or dead; progress: told or lost.",
        ("result",),
    ),
}
GAUGES: Declared = {
    "build_info": ("1, with Darkroom's version and Python's.", ("version", "python")),
    "configuration_problem": (
        (
            "1 while the configuration file, or the catalogue that it names, cannot be put in "
            "force; the settings before it are."
        ),
        (),
    ),
    "disk_free_bytes": ("Free space of the data directory's disk.", ()),
    "uploads_open": ("Files that are being received, by sender.", ("sender",)),
    "realtime_sessions": ("Open realtime sessions.", ("endpoint",)),
    "webhooks_pending": ("Webhooks that are not delivered yet.", ()),
    "webhooks_oldest_seconds": ("Age of the oldest pending webhook.", ()),
    "webhook_breakers_open": ("Open circuit breakers of webhooks.", ("of",)),
}
HISTOGRAMS: DeclaredHistograms = {
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
    "upload_seconds": (
        "Time to receive and store a file or a part, by sender and result.",
        ("sender", "result"),
        LATENCY_S,
    ),
    "webhook_seconds": (
        "Time of a webhook call until the receiver's answer.",
        ("result",),
        LATENCY_S,
    ),
}


class Metrics:
    """All metrics, in one registry. The methods take microseconds and never raise.

    ``queue`` and ``database``: the metrics of these areas.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.queue = QueueMeter(registry)
        self.database = DatabaseMetrics(registry)
        self._families = Families(registry, COUNTERS, GAUGES, HISTOGRAMS)
        self._counters = self._families.counters
        self._gauges = self._families.gauges
        self._histograms = self._families.histograms
        for caller in ("ingress", "replica"):
            for call in ("read", "write"):
                for result in STORAGE_FAILURES:
                    self._counters["storage_calls"].labels(caller, call, result)

    def list_metrics(self) -> Sequence[MetricWrapperBase]:
        """All metrics, whether they have values or not."""
        families = self._families, self.queue.families, self.database.families
        return [metric for family in families for metric in family.all()]

    def set_build_info(self, version: str, python: str) -> None:
        self._gauges["build_info"].labels(version, python).set(1)

    def watch_disk(self, free_bytes: Callable[[], float]) -> None:
        """Read the free space whenever the metrics are read."""
        self._gauges["disk_free_bytes"].set_function(free_bytes)

    def watch_configuration(self, has_problem: Callable[[], bool]) -> None:
        """Ask for a problem of the configuration whenever the metrics are read."""
        self._gauges["configuration_problem"].set_function(has_problem)

    def record_response(self, route: str, status: int, elapsed_s: float) -> None:
        """Record a response. ``route`` is a fixed name, never a path that a client chose."""
        self._histograms["http_seconds"].labels(route, str(status)).observe(elapsed_s)

    def count_refusal(self, status: int, reason: str) -> None:
        """Count a call that may succeed later. ``reason``: an error's code, or which limit."""
        self._counters["refused"].labels(str(status), reason).inc()

    def record_engine_usage(self, pool: str, done: EngineUsage) -> None:
        """Add the work that a replica of ``pool`` has reported."""
        self._counters["steps"].labels(pool).inc(done.steps)
        for (part, calls), forwards in done.forwards.items():
            self._counters["forwards"].labels(pool, part, str(calls)).inc(forwards)
        for (part, reason), calls in done.not_merged.items():
            self._counters["not_merged_calls"].labels(pool, part, reason).inc(calls)
        for way, calls in done.parallel_calls.items():
            self._counters["parallel_calls"].labels(pool, way).inc(calls)
        for (family, stage), seconds in done.seconds.items():
            self._counters["engine_seconds"].labels(pool, family, stage).inc(seconds)
        for (call, result), number in done.storage_calls.items():
            self._counters["storage_calls"].labels("replica", call, result).inc(number)
        for (call, result), seconds in done.storage_seconds.items():
            self._counters["storage_seconds"].labels(call, result).inc(seconds)

    def session_opened(self, endpoint: str) -> None:
        self._gauges["realtime_sessions"].labels(endpoint).inc()

    def session_ended(self, endpoint: str) -> None:
        self._gauges["realtime_sessions"].labels(endpoint).dec()

    def frame(self, endpoint: str, end: str) -> None:
        """Count a frame by ``end``: drawn, failed, dropped for a newer one, or refused."""
        self._counters["realtime_frames"].labels(endpoint, end).inc()

    def frame_generated(self, endpoint: str, elapsed_s: float) -> None:
        self._histograms["realtime_frame_seconds"].labels(endpoint).observe(elapsed_s)

    def count_unexpected_error(self, route: str) -> None:
        self._counters["unexpected_errors"].labels(route).inc()

    def spans(self, result: str, number: int) -> None:
        """Count spans: ``exported``, ``queue_full``, ``export_failed``; or ``not_reported``, which
        counts attempts."""
        self._counters["spans"].labels(result).inc(number)

    def webhook(self, result: str) -> None:
        """Count a call by result: ``delivered``, ``failed`` or ``dead``; ``told`` or ``lost``."""
        self._counters["webhooks"].labels(result).inc()

    def webhooks(self, backlog: WebhookBacklog) -> None:
        self._gauges["webhooks_pending"].set(backlog.pending)
        self._gauges["webhooks_oldest_seconds"].set(backlog.oldest_s)

    @contextmanager
    def uploading(self, sender: str) -> Generator[None]:
        """Record a file, or a part of one, that is received and stored in the block."""
        open_ = self._gauges["uploads_open"].labels(sender)
        began, result = time.perf_counter(), "aborted"
        open_.inc()
        try:
            yield
            result = "stored"
        except DarkroomError as error:
            result = error.code
            raise
        finally:
            open_.dec()
            elapsed_s = time.perf_counter() - began
            self._histograms["upload_seconds"].labels(sender, result).observe(elapsed_s)

    def count_uploaded_bytes(self, sender: str, size: int) -> None:
        self._counters["upload_bytes"].labels(sender).inc(size)

    def storage_called(self, call: str, result: str, number: int = 1) -> None:
        """Count objects of a ``call`` of storage: ``read``, ``write``, ``delete`` or ``size``.

        ``result``: ``done``, ``aborted`` by the caller or by an unexpected error, or an error code.
        """
        self._counters["storage_calls"].labels("ingress", call, result).inc(number)

    def file_signed(self, result: str) -> None:
        """Count a file that was ``signed``, was ``refused`` a signature, or stays ``unsigned``."""
        self._counters["signed_files"].labels(result).inc()

    def safety_decided(self, of: str, action: str) -> None:
        """Count a decision about an ``input`` or an ``output``: ``flag``, ``blur``, ``block``, or
        ``pass`` if it could not be checked."""
        self._counters["safety_decisions"].labels(of, action).inc()

    def webhook_called(self, result: str, elapsed_s: float) -> None:
        """Record a call of a receiver by its answer's class: ``2xx`` to ``5xx``, or ``none``."""
        self._histograms["webhook_seconds"].labels(result).observe(elapsed_s)

    def breakers(self, receivers: int, tenants: int) -> None:
        """Record how many breakers of receivers and of tenants are open."""
        self._gauges["webhook_breakers_open"].labels("receiver").set(receivers)
        self._gauges["webhook_breakers_open"].labels("tenant").set(tenants)


class MetricsServer:
    """HTTP server of a registry for Prometheus. ``port`` 0 selects a free port.

    ``processes``: how many may serve on one node. Each takes the first free port from ``port`` on.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        port: int,
        host: str = "127.0.0.1",
        processes: int = 1,
    ) -> None:
        self._registry = registry
        self._wanted = range(port, min(port + (processes if port else 1), MAX_PORT + 1))
        self._host = host
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """Bound port; 0 before the start."""
        return self._server.server_port if self._server else 0

    @property
    def address_text(self) -> str:
        """Ports and address that it may serve on, for messages."""
        first, last = self._wanted[0], self._wanted[-1]
        ports = f"port {first}" if first == last else f"ports {first} to {last}"
        return f"{ports} on {self._host}"

    def start(self) -> bool:
        """Open the first free port, and return True. Returns False while other processes have all
        of them. Raises ``Misconfigured`` if a port cannot be opened for another reason."""
        if self._server is not None:
            return True
        for port in self._wanted:
            try:
                self._server, self._thread = start_http_server(
                    port, addr=self._host, registry=self._registry
                )
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue  # another ingress replica on this node
                raise self._cannot_open(error) from error
            return True
        return False

    def _cannot_open(self, error: OSError) -> Misconfigured:
        return Misconfigured(
            f"The metrics {self.address_text} cannot be opened ({error.strerror}). Set "
            "DARKROOM_METRICS_PORT to a port that this process may open, or to 0 for any free "
            "port, and DARKROOM_METRICS_HOST to an address of this machine."
        )

    def close(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._server = self._thread = None
