"""Tracing of an ingress process: its start, and the spans that replicas report."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from serve_app.domain.lease import Report
from serve_app.domain.ports import Clock
from serve_app.settings import OpenTelemetrySettings
from serve_app.telemetry.attempt_trace import from_plain
from serve_app.telemetry.metrics import Metrics

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

log = logging.getLogger(__name__)


async def start_tracing(
    stack: AsyncExitStack, clock: Clock, metrics: Metrics, *, names_tenants: bool
) -> Tracing | None:
    """Start to export spans, until ``stack`` is closed. None if the environment asks for none.

    ``Misconfigured`` names the variable that is wrong.
    """
    settings = OpenTelemetrySettings()
    if not settings.traces:
        return None
    most = settings.most_waiting

    def start() -> Tracing:
        # Imported only here, because it needs OpenTelemetry's SDK.
        from serve_app.telemetry import tracing  # noqa: PLC0415

        return tracing.start_tracing(clock, most, metrics.spans, names_tenants=names_tenants)

    started = await asyncio.to_thread(start)
    stack.push_async_callback(asyncio.to_thread, started.close)
    log.info("Spans of requests are exported by OTLP.")
    return started


def record_attempts(tracing: Tracing | None, metrics: Metrics, report: Report) -> None:
    """Record the spans of the attempts that ended on a replica."""
    if report.lost_traces:
        metrics.spans("not_reported", report.lost_traces)
    if tracing is not None:
        for each in report.traces:
            tracing.attempted(from_plain(each), report.pool, report.replica_id)
