"""The control store (GCS) and the head may die: what was accepted ends, and Darkroom serves again.

The pools are on other nodes, the database and the storage elsewhere, and the control store is on a
disk that outlives its process. Where the ingress is on other nodes too, calls go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.free_ports import free_port
from tests.cluster.darkroom import eventually
from tests.cluster.load import Load
from tests.cluster.nodes import SeveralNodes, in_bucket, several_nodes, with_stores
from tests.queue.database import conninfo, server
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = ["conninfo", "moto_server", "server"]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.crash,
    pytest.mark.long,
    pytest.mark.timeout(900),
]

CATALOGUE = """
endpoints:
  test/small: {family: small, schema: open}
"""
POOL = {
    "families": ["small"],
    "num_gpus": 1,
    "num_cpus": 0.1,
    "min_replicas": 2,
    "max_replicas": 2,
    "slots": 2,
}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[SeveralNodes]:
    """A cluster whose control store is on the disk."""
    switches = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}
    with several_nodes(tmp_path, **switches) as started:
        yield started


@pytest.fixture
def arguments(moto_server: S3Server, tmp_path: Path) -> dict[str, Any]:
    """Of a Darkroom with two replicas, each on a node of its own."""
    models = tmp_path / "models.yaml"
    models.write_text(CATALOGUE)
    return {
        "data_dir": str(tmp_path / "data"),
        "models": str(models),
        "families": {"small": "tests.fakes.family:ProbeFamily"},
        "pools": {"small": POOL},
        "demo": False,
        **in_bucket(moto_server),
    }


@pytest.fixture
def load(
    nodes: SeveralNodes, conninfo: str, moto_server: S3Server, arguments: dict[str, Any]
) -> Iterator[Load]:
    """Clients of it, whose ingress is on the head."""
    word, facts, port = nodes.run(with_stores(conninfo, moto_server), arguments)
    assert word == "placed", facts
    assert facts["ingress"] == ["head"]
    assert sorted(facts["small"]) == ["A10G", "L4"]
    with Load(port, conninfo) as load:
        yield load


def test_the_control_store_killed_under_load_fails_no_call_and_no_request(
    nodes: SeveralNodes, load: Load
) -> None:
    load.goes_on()
    nodes.kill("gcs")
    load.goes_on()
    nodes.start("gcs")
    load.goes_on()
    load.finish()
    assert load.refused == []
    assert {(row["state"], row["failures"]) for row in load.rows()} == {("succeeded", 0)}


def test_the_head_killed_under_load_loses_no_request_and_its_return_serves_again(
    nodes: SeveralNodes, load: Load
) -> None:
    load.goes_on()
    replicas = load.replicas()
    nodes.kill("head")
    eventually(lambda: len(load.refused) > 0, "the ingress is away")
    nodes.start("head")
    load.goes_on()
    load.finish()
    assert {row["state"] for row in load.rows()} == {"succeeded"}
    # The replicas on the other nodes are the same, and their weights were not loaded again.
    assert load.replicas() == replicas


def test_with_the_ingress_on_other_nodes_calls_go_on_while_the_head_is_away(
    nodes: SeveralNodes, conninfo: str, moto_server: S3Server, arguments: dict[str, Any]
) -> None:
    first = free_port()
    settings = arguments | {
        "ingress_replicas": 2,
        "ingress_nodes": "darkroom/gpu=A10G",
        "metrics_port": first,
    }
    secrets = with_stores(conninfo, moto_server)
    word, facts, port = nodes.run(secrets, settings, proxies="EveryNode")
    assert word == "placed", facts
    assert facts["ingress"] == ["A10G", "A10G"]
    for metrics_port in (first, first + 1):
        metrics = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        assert "darkroom_build_info" in metrics
    with Load(port, conninfo) as load:
        load.goes_on()
        nodes.kill("head")
        load.goes_on()
        nodes.start("head")
        load.goes_on()
        load.finish()
        # Those that were on a connection to the head's own proxy.
        assert len(load.refused) < len(load.accepted)
        assert {(row["state"], row["failures"]) for row in load.rows()} == {("succeeded", 0)}
