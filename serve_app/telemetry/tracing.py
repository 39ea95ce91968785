"""Spans of requests, by OpenTelemetry. Imported only when tracing is on, because it needs the SDK.

Every span has its parent named: a request passes through several processes and outlives some of
them, so no span is "current". Spans name requests, endpoints and error codes, never an input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState

from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import Clock
from serve_app.domain.request import Request
from serve_app.telemetry import trace_context
from serve_app.telemetry.attempt_trace import AttemptTrace, Attribute
from serve_app.telemetry.span_export import Count, SpanIds, close, make_provider
from serve_app.telemetry.version import package_version

# Attributes of our own. Those of OpenTelemetry's conventions for generative models are still in
# development: their names are written here, because the package has them under a private path.
REQUEST_ID, ENDPOINT, POOL = "darkroom.request_id", "darkroom.endpoint", "darkroom.pool"
ATTEMPT, REPLICA, TENANT = "darkroom.attempt", "darkroom.replica", "darkroom.tenant"
OPERATION, MODEL = "gen_ai.operation.name", "gen_ai.request.model"
PROVIDER, GENERATE = "gen_ai.provider.name", "generate_content"

Attributes = Mapping[str, Attribute]


class OpenSpan:
    """Span of what this process does now. ``trace``: the context that continues in it."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.trace = _text(span.get_span_context())

    def end_call(self, method: str, route: str, request_id: str, status: int, error: str) -> None:
        """End the span of a served call. ``error``: code of the error that was answered, if any."""
        span = self._span
        span.update_name(f"{method} {route}")
        span.set_attributes({HTTP_REQUEST_METHOD: method, REQUEST_ID: request_id})
        if status:
            span.set_attribute(HTTP_RESPONSE_STATUS_CODE, status)
        if error or status >= 400:
            span.set_attribute(ERROR_TYPE, error or str(status))
        # A mistake of the client is no error of the server, by OpenTelemetry's conventions.
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, error or None))
        span.end()

    def end_webhook(self, status: int | None, *, accepted: bool) -> None:
        """End the span of a call of a receiver. ``status`` None: it gave no answer."""
        if status is not None:
            self._span.set_attribute(HTTP_RESPONSE_STATUS_CODE, status)
        if not accepted:
            self._span.set_attribute(ERROR_TYPE, "no_answer" if status is None else str(status))
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Spans of one ingress process. The methods take microseconds, wait for nothing and never raise
    for what a client or a replica sent."""

    def __init__(
        self, provider: TracerProvider, ids: SpanIds, clock: Clock, *, names_tenants: bool = False
    ) -> None:
        """``names_tenants``: spans have the tenant as an attribute."""
        self._provider = provider
        self._tracer = provider.get_tracer("darkroom", package_version())
        self._ids = ids
        self._clock = clock
        self._names_tenants = names_tenants

    def close(self) -> None:
        """Export the last spans. Blocks for seconds if the exporter does not answer."""
        close(self._provider)

    def begin_call(self, headers: Iterable[tuple[bytes, bytes]]) -> OpenSpan:
        """Begin the span of a call that this process serves, in the trace of its headers."""
        trace = trace_context.from_headers(headers)
        return OpenSpan(
            self._tracer.start_span(
                "call", _parent(trace), kind=SpanKind.SERVER, start_time=self._now_ns()
            )
        )

    def lease_trace(self, request: Request) -> str:
        """Context for the replica that runs the request; empty if it need not record anything."""
        return request.trace if trace_context.is_sampled(request.trace) else ""

    def record_wait(self, request: Request, wait_s: float) -> None:
        """Record the wait of a request from its submit to its first lease, which was just made."""
        if trace_context.is_sampled(request.trace):
            attributes = self._about(request.id, request.endpoint, request.tenant)
            self._record_span("wait", request.trace, wait_s, attributes | {POOL: request.pool})

    def lost(
        self,
        trace: str,
        lease_key: LeaseKey,
        pool: str,
        replica_id: str | None,
        took_s: float,
        error: str,
    ) -> None:
        """Record an attempt that ended without its replica: it died, or did not answer in time."""
        if trace_context.is_sampled(trace):
            about = {REQUEST_ID: lease_key.request_id, ATTEMPT: lease_key.attempt, POOL: pool}
            if replica_id is not None:
                about[REPLICA] = replica_id
            self._attempt(trace, lease_key, about, self._now_ns(), took_s, error)

    def record_attempt(self, attempt: AttemptTrace, pool: str, replica_id: str) -> None:
        """Record an attempt and its stages, as its replica reported them."""
        ended_ns = self._now_ns() - _ns(attempt.ended_ago_s)
        attributes = self._about(attempt.lease_key.request_id, attempt.endpoint, attempt.tenant)
        attributes |= {ATTEMPT: attempt.lease_key.attempt, POOL: pool, REPLICA: replica_id}
        parent = self._attempt(
            attempt.trace, attempt.lease_key, attributes, ended_ns, attempt.took_s, attempt.error
        )
        began_ns = ended_ns - _ns(attempt.took_s)
        for stage in attempt.stages:
            stage_ns = began_ns + _ns(stage.after_s)
            span = self._tracer.start_span(
                stage.name, parent, attributes=dict(stage.attributes), start_time=stage_ns
            )
            span.end(stage_ns + _ns(stage.took_s))

    def begin_webhook(self, trace: str, request_id: str, url: str, tries: int) -> OpenSpan:
        """Begin the span of a try to send a webhook. ``tries``: before this one."""
        attributes: dict[str, Attribute] = {
            REQUEST_ID: request_id,
            HTTP_REQUEST_METHOD: "POST",
            SERVER_ADDRESS: urlsplit(url).hostname or "",  # a path or query may hold a secret
            "http.request.resend_count": tries,
        }
        return OpenSpan(
            self._tracer.start_span(
                "webhook",
                _parent(trace),
                kind=SpanKind.CLIENT,
                attributes=attributes,
                start_time=self._now_ns(),
            )
        )

    def _attempt(
        self,
        trace: str,
        lease_key: LeaseKey,
        attributes: Attributes,
        ended_ns: int,
        took_s: float,
        error: str,
    ) -> Context:
        """Record the span of an attempt. Return the context of its children."""
        _, span_id = trace_context.ids_of(trace_context.of_attempt(trace, lease_key))
        self._ids.give(int(span_id, 16))
        span = self._tracer.start_span(
            "attempt",
            _parent(trace),
            kind=SpanKind.CONSUMER,
            attributes=dict(attributes),
            start_time=ended_ns - _ns(took_s),
        )
        if error:
            span.set_attribute(ERROR_TYPE, error)
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(ended_ns)
        return set_span_in_context(span, Context())

    def _record_span(self, name: str, trace: str, took_s: float, attributes: Attributes) -> None:
        """Record a span that ends now."""
        now_ns = self._now_ns()
        span = self._tracer.start_span(
            name, _parent(trace), attributes=dict(attributes), start_time=now_ns - _ns(took_s)
        )
        span.end(now_ns)

    def _about(self, request_id: str, endpoint: str, tenant: str) -> dict[str, Any]:
        about = {
            REQUEST_ID: request_id,
            ENDPOINT: endpoint,
            MODEL: endpoint,
            OPERATION: GENERATE,
            PROVIDER: "darkroom",
        }
        return about | {TENANT: tenant} if self._names_tenants else about

    def _now_ns(self) -> int:
        return int(self._clock.now().timestamp() * 1e6) * 1000


def start_tracing(clock: Clock, most: int, count: Count, *, names_tenants: bool) -> Tracing:
    """Start to export spans to the endpoint of the environment. ``most``: spans that may wait."""
    ids = SpanIds()
    return Tracing(make_provider(ids, most, count), ids, clock, names_tenants=names_tenants)


def _parent(trace: str) -> Context:
    """Context in which a span is a child of ``trace``, or begins a trace if that is empty."""
    if not trace:
        return Context()
    trace_id, span_id = trace_context.ids_of(trace)
    state = trace_context.state_of(trace)
    parent = SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(trace[53:55], 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _text(context: SpanContext) -> str:
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    return f"{parent} {state}" if state else parent


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
