"""OTLP/HTTP collector in a thread, which decodes what an exporter sends, and tracing into it."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry

from serve_app.ingress.replica_calls import start_tracing
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from serve_app.telemetry.tracing import Tracing

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Received:
    """A span, with ids in hexadecimal digits."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    began: int  # ns
    ended: int  # ns
    failed: bool
    state: str
    attributes: dict[str, Any]


@dataclass
class Collector:
    url: str
    spans: list[Received] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    status: int = 200  # of every answer
    changed: threading.Condition = field(default_factory=threading.Condition)

    async def until(self, *names: str) -> list[Received]:
        """All spans received so far, once each of these names is among them."""
        await asyncio.to_thread(self._wait, set(names))
        return [*self.spans]

    def _wait(self, names: set[str]) -> None:
        def arrived() -> bool:
            return names <= {span.name for span in self.spans}

        with self.changed:
            assert self.changed.wait_for(arrived, PATIENCE_S), [span.name for span in self.spans]

    def find_span(self, name: str) -> Received:
        (span,) = [received for received in self.spans if received.name == name]
        return span

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            self.bodies.append(body)
            for resource in request.resource_spans:
                self.services.update(
                    attribute.value.string_value
                    for attribute in resource.resource.attributes
                    if attribute.key == "service.name"
                )
                self.spans += [
                    _span(span) for scope in resource.scope_spans for span in scope.spans
                ]
            self.changed.notify_all()


def _span(span: Any) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        state=span.trace_state,
        attributes={attribute.key: _value(attribute.value) for attribute in span.attributes},
    )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces" and collector.status == 200:
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="collector")
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE_S)


@dataclass(frozen=True)
class Traced:
    """Tracing that exports to a collector."""

    tracing: Tracing
    collector: Collector
    metrics: Metrics

    def count_spans(self, result: str) -> float:
        """Spans with a result, by the metric."""
        name, labels = "darkroom_spans_total", {"result": result}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def tracing_to_collector(
    monkeypatch: pytest.MonkeyPatch, *, names_tenants: bool = False, **variables: str
) -> AsyncIterator[Traced]:
    """Tracing as the environment turns it on. ``variables``: more of OpenTelemetry's."""
    with collecting() as collector:
        usual = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        for name, value in {**usual, **variables}.items():
            monkeypatch.setenv(name, value)
        metrics = Metrics(CollectorRegistry())
        async with AsyncExitStack() as stack:
            tracing = await start_tracing(
                stack, SystemClock(), metrics, names_tenants=names_tenants
            )
            assert tracing is not None
            yield Traced(tracing, collector, metrics)
