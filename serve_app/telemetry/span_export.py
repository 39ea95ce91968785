"""Export of spans by OTLP over HTTP. Imported only when tracing is on, because it needs the SDK.

The usual variables of OpenTelemetry (``OTEL_EXPORTER_OTLP_…``, ``OTEL_BSP_…``,
``OTEL_TRACES_SAMPLER``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_SERVICE_NAME``) are read by the SDK.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from serve_app.telemetry.version import package_version

log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""Longest time in seconds to export the last spans at shutdown."""

USUAL_BATCH = 512  # of the SDK, unless OTEL_BSP_MAX_EXPORT_BATCH_SIZE says another

EXPORTED, QUEUE_FULL, EXPORT_FAILED = "exported", "queue_full", "export_failed"

Count = Callable[[str, int], None]
"""Counts spans by what became of them."""


class SpanIds(RandomIdGenerator):
    """Random ids of spans, unless the next one is given. For one thread at a time."""

    def __init__(self) -> None:
        self._given = threading.local()

    def give(self, span_id: int) -> None:
        """Use ``span_id`` for the next span of this thread."""
        self._given.next = span_id

    def generate_span_id(self) -> int:
        span_id = getattr(self._given, "next", None)
        if span_id is None:
            return super().generate_span_id()
        self._given.next = None
        return span_id


class BoundedExport(SpanProcessor):
    """Batches spans for an exporter, on a thread of its own. At most ``most`` wait; more are
    dropped and counted, so an exporter that is slow or fails delays nothing."""

    def __init__(self, exporter: SpanExporter, most: int, count: Count) -> None:
        self._most = most
        self._count = count
        self._waiting = 0
        self._lock = threading.Lock()
        self._batches = BatchSpanProcessor(
            _Counted(exporter, self._count_exported),
            max_queue_size=most,
            max_export_batch_size=most if most < USUAL_BATCH else None,
        )

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            fits = self._waiting < self._most
            self._waiting += fits
        if fits:
            self._batches.on_end(span)
        else:
            self._count(QUEUE_FULL, 1)

    def shutdown(self) -> None:
        self._batches.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._batches.force_flush(timeout_millis)

    def _count_exported(self, spans: int, *, well: bool) -> None:
        with self._lock:
            self._waiting -= spans
        self._count(EXPORTED if well else EXPORT_FAILED, spans)


class _Counted(SpanExporter):
    """Counts what an exporter does, and logs when it begins to fail and when it works again."""

    def __init__(self, inner: SpanExporter, exported: Callable[..., None]) -> None:
        self._inner = inner
        self._exported = exported
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            well = result is SpanExportResult.SUCCESS
            self._exported(len(spans), well=well)
            self._log_change(failing=not well)
        return result

    def _log_change(self, *, failing: bool) -> None:
        if failing and not self._failing:
            log.warning(
                "Spans cannot be exported and are dropped. Requests are not affected. Check "
                "OTEL_EXPORTER_OTLP_ENDPOINT; darkroom_spans_total counts them."
            )
        elif self._failing and not failing:
            log.info("Spans are exported again.")
        self._failing = failing

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def make_provider(ids: SpanIds, most: int, count: Count) -> TracerProvider:
    """Provider that exports to the endpoint of the environment. At most ``most`` spans wait."""
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        named = {SERVICE_NAME: "darkroom", SERVICE_VERSION: package_version()}
        resource = resource.merge(Resource(named))
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BoundedExport(OTLPSpanExporter(), most, count))
    return provider


def close(provider: TracerProvider) -> None:
    """Export the last spans, and stop. Blocks for at most about ``CLOSE_S``."""
    closing = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
    closing.start()
    closing.join(CLOSE_S)
