"""Metrics of the connections to PostgreSQL and of the statements on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry

from serve_app.telemetry.families import Declared, DeclaredHistograms, Families

STATEMENT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

COUNTERS: Declared = {
    "database_unavailable": (
        "Statements refused because the database was not available, by reason.",
        ("connections", "reason"),
    ),
    "database_retries": (
        "Statements repeated after a deadlock or a serialization failure.",
        ("connections",),
    ),
}
GAUGES: Declared = {
    "database_connections": ("Open connections.", ("connections",)),
    "database_connections_used": ("Connections with a statement.", ("connections",)),
    "database_connections_max": ("Limit on open connections.", ("connections",)),
    "database_connections_waiting": ("Statements that wait for a connection.", ("connections",)),
}
HISTOGRAMS: DeclaredHistograms = {
    "database_statement_seconds": (
        "Time of a statement on its connection, by the statement's name.",
        ("statement",),
        STATEMENT_S,
    ),
}
_REASONS = "away", "busy", "slow", "read_only", "disk_full"
_STATS: Mapping[str, Callable[[Mapping[str, int]], int]] = {
    "database_connections": lambda stats: stats.get("pool_size", 0),
    "database_connections_used": lambda stats: (
        stats.get("pool_size", 0) - stats.get("pool_available", 0)
    ),
    "database_connections_max": lambda stats: stats.get("pool_max", 0),
    "database_connections_waiting": lambda stats: stats.get("requests_waiting", 0),
}


class DatabaseMetrics:
    """Metrics of all pools of connections. The methods take microseconds and never raise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.families = Families(registry, COUNTERS, GAUGES, HISTOGRAMS)

    def of(self, connections: str) -> PoolMetrics:
        """Metrics of one pool of connections, such as ``queue``."""
        return PoolMetrics(self.families, connections)


class PoolMetrics:
    """Metrics of one pool of connections."""

    def __init__(self, families: Families, connections: str) -> None:
        self._families = families
        self._connections = connections
        for reason in _REASONS:
            families.counters["database_unavailable"].labels(connections, reason)

    def watch(self, stats: Callable[[], Mapping[str, int]]) -> None:
        """Read the pool's figures, by psycopg's names, whenever the metrics are read.

        ``stats`` may be called in any thread, and is empty while there is no pool.
        """
        for name, figure in _STATS.items():
            gauge = self._families.gauges[name].labels(self._connections)
            gauge.set_function(lambda figure=figure: figure(stats()))

    def ran(self, statement: str, elapsed_s: float) -> None:
        """Record a statement, also one that failed."""
        self._families.histograms["database_statement_seconds"].labels(statement).observe(elapsed_s)

    def count_retry(self) -> None:
        self._families.counters["database_retries"].labels(self._connections).inc()

    def unavailable(self, reason: str) -> None:
        """Count a refused statement. ``reason``: one of ``_REASONS``."""
        self._families.counters["database_unavailable"].labels(self._connections, reason).inc()
