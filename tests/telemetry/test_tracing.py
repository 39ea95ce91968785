"""A request is one trace, from its client's span to the call of its webhook.

Everything is real but Ray: HTTP server, PostgreSQL, replica, engine, and an OTLP collector.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import Misconfigured
from serve_app.ingress.replica_calls import start_tracing
from serve_app.settings import OpenTelemetrySettings
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from tests.architecture.scene import BODY, ENDPOINT, STEPS, scene
from tests.telemetry.collector import tracing_to_collector
from tests.webhooks.receiver import Receiver

ROOT = Path(__file__).parents[2]
TRACE, CLIENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CLIENT_SPAN}-01"
STAGES = [
    *("loading", "encoding_text", "denoising", "decoding", "encoding_media", "uploading", "finish")
]
SERVER, CLIENT, CONSUMER = 2, 3, 5  # kinds, by their numbers in OTLP


@pytest.mark.engine
async def test_a_request_is_one_trace_from_its_client_to_its_webhook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        traced = await stack.enter_async_context(tracing_to_collector(monkeypatch))
        running = await stack.enter_async_context(
            scene(tmp_path, tracing=traced.tracing, report_interval_s=0.05)
        )
        receiver = await stack.enter_async_context(Receiver())
        await running.start_replica()
        answer = await running.submit(receiver.url(), traceparent=PARENT, tracestate="vendor=1")
        (delivered,) = await receiver.until(1)
        names = "POST fal.submit", "wait", "attempt", "webhook"
        spans = await traced.collector.until(*names, *STAGES)
    submit, wait, attempt, webhook = map(traced.collector.find_span, names)
    assert {span.trace_id for span in spans} == {TRACE}
    assert traced.collector.services == {"darkroom"}

    assert (submit.parent_id, submit.kind, submit.state) == (CLIENT_SPAN, SERVER, "vendor=1")
    assert answer.headers["traceparent"] == f"00-{TRACE}-{submit.span_id}-01"
    assert answer.headers["tracestate"] == "vendor=1"
    assert submit.attributes["http.response.status_code"] == 200

    assert wait.parent_id == attempt.parent_id == webhook.parent_id == submit.span_id
    assert (attempt.kind, webhook.kind) == (CONSUMER, CLIENT)
    assert delivered.headers["traceparent"] == f"00-{TRACE}-{webhook.span_id}-01"
    request_id = answer.json()["request_id"]
    about = {span.attributes["darkroom.request_id"] for span in (submit, wait, attempt, webhook)}
    assert about == {request_id}
    assert attempt.attributes["gen_ai.request.model"] == ENDPOINT
    assert (attempt.attributes["darkroom.attempt"], attempt.failed) == (1, False)

    stages = [span for span in spans if span.parent_id == attempt.span_id]
    stages = [stage for stage in stages if stage.name != "waiting_for_slot"]  # on a slow machine
    assert [stage.name for stage in sorted(stages, key=lambda span: span.began)] == STAGES
    assert all(attempt.began <= stage.began <= stage.ended <= attempt.ended for stage in stages)
    denoising = traced.collector.find_span("denoising").attributes
    assert denoising == {"darkroom.steps": STEPS, "darkroom.batch_size": 1.0}
    assert not any(BODY["prompt"].encode() in body for body in traced.collector.bodies)
    assert not any("darkroom.tenant" in span.attributes for span in spans)


@pytest.mark.parametrize("waiting", ["2", "2048"])
async def test_an_exporter_that_fails_is_counted_and_delays_no_call(
    monkeypatch: pytest.MonkeyPatch, waiting: str
) -> None:
    variables = {"OTEL_BSP_MAX_QUEUE_SIZE": waiting}
    async with tracing_to_collector(monkeypatch, **variables) as traced:
        traced.collector.status = 400
        for _ in range(50):
            traced.tracing.begin_call([]).end_call("POST", "fal.submit", "id", 200, "")
        async with asyncio.timeout(60):
            while traced.count_spans("queue_full") + traced.count_spans("export_failed") < 50:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert traced.count_spans("exported") == 0
    assert bool(traced.count_spans("queue_full")) == (waiting == "2")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"EXPORTER_OTLP_ENDPOINT": ""},
        {"EXPORTER_OTLP_ENDPOINT": "http://c:4318", "SDK_DISABLED": "true"},
        {"EXPORTER_OTLP_ENDPOINT": "http://c:4318", "TRACES_EXPORTER": "none"},
        {"EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"},
    ],
)
async def test_tracing_is_off_unless_the_environment_names_an_endpoint(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    async with AsyncExitStack() as stack:
        metrics = Metrics(CollectorRegistry())
        assert await start_tracing(stack, SystemClock(), metrics, names_tenants=False) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_BSP_MAX_QUEUE_SIZE", "many")],
)
def test_a_variable_that_cannot_be_followed_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces")
    monkeypatch.setenv(name, value)
    settings = OpenTelemetrySettings()
    with pytest.raises(Misconfigured, match=f"{name} is .?{value}"):
        _ = settings.traces, settings.most_waiting


@pytest.mark.long
def test_without_tracing_the_sdk_is_not_imported() -> None:
    code = (
        "import sys, serve_app.ingress.replica_calls, serve_app.queue.queue, "
        "deployments.replica.timeline; print('\\n'.join(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    sdk = "opentelemetry.sdk", "opentelemetry.exporter", "serve_app.telemetry.tracing"
    assert not [word for word in shown.stdout.split() if word.startswith(sdk)]
