from __future__ import annotations

import contextlib
import logging
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Demand, EngineUsage
from serve_app.domain.request import State
from serve_app.free_ports import free_port
from serve_app.ingress.connections import serve_metrics
from serve_app.settings import Config
from serve_app.telemetry.metrics import Metrics, MetricsServer
from serve_app.telemetry.queue_metrics import MAX_NODES
from tests.captured_logs import CapturedLogs
from tests.contract.waiting import eventually


def test_what_happens_is_counted() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.queue.count_entry("a/b", State.QUEUED)
    metrics.queue.count_entry("a/b", State.QUEUED)
    metrics.queue.record_end("a/b", "studio", State.SUCCEEDED, 0.3, 0.5, None)
    metrics.record_response("fal.run", 200, 0.02)
    metrics.queue.depth({"studio": Demand(queued=3, running=2, oldest_wait_s=1.5)})
    metrics.queue.oldest_transaction(90.0, 4000)
    forwards = {("denoiser", 1): 1, ("denoiser", 3): 2}
    done = EngineUsage(
        7,
        forwards,
        {("encoder", "nobody else"): 1},
        {("flux", "denoising"): 1.5},
        {"rows": 3},
        {("write", "error"): 2, ("write", "done"): 1},
        {("write", "error"): 0.25},
    )
    for _ in range(2):
        metrics.record_engine_usage("studio", done)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("darkroom_requests_total", endpoint="a/b", state="queued") == 2
    assert value("darkroom_run_seconds_count", endpoint="a/b") == 1
    assert value("darkroom_http_seconds_count", route="fal.run", status="200") == 1
    assert value("darkroom_queued", pool="studio") == 3
    assert value("darkroom_running", pool="studio") == 2
    assert value("darkroom_steps_total", pool="studio") == 14
    merged = {"pool": "studio", "part": "denoiser", "calls": "3"}
    assert value("darkroom_forwards_total", **merged) == 4
    alone = {"pool": "studio", "part": "encoder", "reason": "nobody else"}
    assert value("darkroom_not_merged_calls_total", **alone) == 2
    divided = {"pool": "studio", "way": "rows"}
    assert value("darkroom_parallel_calls_total", **divided) == 6
    denoised = {"pool": "studio", "family": "flux", "stage": "denoising"}
    assert value("darkroom_engine_seconds_total", **denoised) == 3.0
    uploads = {"caller": "replica", "call": "write"}
    assert value("darkroom_storage_calls_total", **uploads, result="error") == 4
    assert value("darkroom_storage_calls_total", **uploads, result="done") == 2
    assert value("darkroom_storage_seconds_total", call="write", result="error") == 0.5
    assert value("darkroom_oldest_wait_seconds", pool="studio") == 1.5
    assert value("darkroom_database_oldest_transaction_seconds") == 90.0
    assert value("darkroom_database_held_back_transactions") == 4000


def test_attempts_that_did_not_end_well_are_counted_by_node() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.queue.replica_info([("studio", "r1", "10.0.0.7", "H100"), ("studio", "r2", "", "")])
    metrics.queue.attempt_ended("studio", "interrupted", "10.0.0.8")
    metrics.queue.attempt_ended("studio", "succeeded", "10.0.0.8")
    metrics.queue.attempt_ended("studio", "lost")

    def failures(node: str, end: str) -> float | None:
        labels = {"node": node, "pool": "studio", "end": end}
        return metrics.registry.get_sample_value("darkroom_node_failures_total", labels)

    assert failures("10.0.0.8", "interrupted") == 1
    assert failures("10.0.0.7", "interrupted") == 0  # there before its first one
    assert failures("10.0.0.8", "succeeded") is None
    assert failures("", "lost") is None


def test_the_nodes_of_a_metric_are_as_many_as_there_may_be_however_many_come_and_go() -> None:
    metrics = Metrics(CollectorRegistry())
    for number in range(MAX_NODES):
        metrics.queue.attempt_ended("studio", "lost", f"node-{number}")
    metrics.queue.attempt_ended("video", "failed", "node-0")  # so the second one is the oldest
    metrics.queue.attempt_ended("studio", "lost", "new")
    nodes = {
        sample.labels["node"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "darkroom_node_failures_total"
    }
    assert len(nodes) == MAX_NODES
    assert {"new", "node-0"} <= nodes
    assert "node-1" not in nodes


def test_the_gauges_of_a_pool_that_has_nothing_any_more_are_zero() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.queue.depth({"studio": Demand(queued=3, oldest_wait_s=2.0), "video": Demand(running=1)})
    metrics.queue.depth({"video": Demand(running=1)})
    value = metrics.registry.get_sample_value
    assert value("darkroom_queued", {"pool": "studio"}) == 0
    assert value("darkroom_oldest_wait_seconds", {"pool": "studio"}) == 0
    assert value("darkroom_running", {"pool": "video"}) == 1


def test_a_configured_pool_has_figures_before_it_has_requests_or_replicas() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.queue.pools({"video": (0, 4)})
    metrics.queue.depth({"studio": Demand(queued=3)})
    metrics.queue.replicas({("studio", "ready"): 1})

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"darkroom_{name}", {"pool": "video"} | labels)

    bounds = value("pool_min_replicas"), value("pool_max_replicas")
    assert bounds == (0, 4)
    gauges = "queued", "running", "oldest_wait_seconds", "polls_waiting", "idle_slots"
    assert [value(name) for name in gauges] == [0] * 5
    assert value("replicas", stage="ready") == 0


def test_two_registries_do_not_mix() -> None:
    first, two = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    first.count_unexpected_error("x")
    assert two.registry.get_sample_value("darkroom_unexpected_errors_total", {"route": "x"}) is None


def test_metrics_are_served_on_loopback_until_closed() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.queue.count_entry("a/b", State.FAILED)
    server = MetricsServer(metrics.registry, 0)
    server.start()
    server.start()
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        assert 'darkroom_requests_total{endpoint="a/b",state="failed"} 1.0' in httpx.get(url).text
    finally:
        server.close()
        server.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_port_that_cannot_be_opened_names_the_settings() -> None:
    server = MetricsServer(CollectorRegistry(), 0, "203.0.113.1")  # no address of this machine
    with pytest.raises(Misconfigured, match="DARKROOM_METRICS_HOST"):
        server.start()


async def test_an_ingress_whose_metrics_port_is_taken_serves_and_takes_it_when_it_is_free(
    tmp_path: Path, caplog: CapturedLogs
) -> None:
    metrics = Metrics(CollectorRegistry())
    async with AsyncExitStack() as stack, httpx.AsyncClient() as client:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with caplog.at_level(logging.INFO):
                serve_metrics(
                    stack, Config(data_dir=tmp_path, metrics_port=port), metrics, retry_s=0.01
                )
            assert f"port {port} on 127.0.0.1 is taken" in caplog.text
            assert "Prometheus metrics are at" not in caplog.text

        async def is_served() -> bool:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            except httpx.TransportError:
                return False
            return "darkroom_build_info" in answer.text

        with caplog.at_level(logging.INFO):
            await eventually(is_served)
        assert f"Prometheus metrics are at http://127.0.0.1:{port}" in caplog.text


def _two_free_ports() -> int:
    """Return the first of two neighbouring ports that no client gets from the kernel meanwhile."""
    while True:
        port = free_port("127.0.0.1")
        with contextlib.suppress(OSError), socket.socket() as neighbour:
            neighbour.bind(("127.0.0.1", port + 1))
            return port


def test_ingress_replicas_on_one_node_take_ports_one_after_the_other() -> None:
    servers: list[MetricsServer] = []
    port = _two_free_ports()
    try:
        for _ in range(2):
            servers.append(MetricsServer(CollectorRegistry(), port, processes=2))
            assert servers[-1].start()
        assert [listener.port for listener in servers] == [port, port + 1]
        third = MetricsServer(CollectorRegistry(), port, processes=2)
        assert (third.start(), third.port) == (False, 0)
        assert third.address_text == f"ports {port} to {port + 1} on 127.0.0.1"
    finally:
        for server in servers:
            server.close()
