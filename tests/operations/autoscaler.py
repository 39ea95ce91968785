"""Nodes with GPUs come for a queue and go when it is empty, by Ray's autoscaler and its fake
provider, which starts nodes on this machine."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)

from serve_app.cli.connection.installation import SHORT_TEMP_DIR
from serve_app.free_ports import free_port
from tests.bad_days.installation import GPU, POOL, Installation
from tests.cluster.darkroom import clean_environment, eventually
from tests.cluster.nodes import SeveralNodes, client_at
from tests.cluster.processes import end_all, known_by, name_of, with_default_signals
from tests.cluster.several_nodes import OBJECT_STORE_BYTES
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import WITHIN_S, Plan, Site, site

MOST_NODES = 2
SERVED_S = 20.0
WITHOUT_S = 30.0
NODE = {
    "resources": {
        "CPU": 1, "GPU": 1, f"accelerator_type:{GPU}": 1, "object_store_memory": OBJECT_STORE_BYTES,
    },
    "labels": {"darkroom/gpu": GPU},
    "node_config": {},
    "min_workers": 0,
}  # fmt: skip
HEAD = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
LISTS = (
    *(f"{name}_commands" for name in ("initialization", "setup", "head_setup", "worker_setup")),
    *("head_start_ray_commands", "worker_start_ray_commands"),
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
"""What Ray asks for and the fake provider does not use."""


class _OnDemand(Installation):
    """Its ingress is on the head, and its replicas come and go."""

    def is_whole(self) -> bool:
        if not self.parts("haproxy") or not self.parts("ingress"):
            return False
        try:
            with client_at(self.nodes.port) as client:
                client.timeout = httpx.Timeout(5)
                return client.get("/readyz").is_success
        except httpx.HTTPError:
            return False


class _Autoscaled(SeveralNodes):
    """A head that starts other nodes itself."""

    def __init__(self, folder: Path, temporary: Path, address: str) -> None:
        nothing = io.StringIO()
        super().__init__(free_port(), temporary, nothing, nothing, folder / "nodes.err")
        self.address = address
        self.configuration = folder / "autoscaler.json"

    def where(self, node: str) -> tuple[str, str]:
        return self.address, FAKE_HEAD_NODE_ID

    def allow(self, nodes: int) -> None:
        """Let so many nodes be started. Ray reads the file in each round."""
        provider = {
            "type": "external",  # Ray's package lacks the defaults of its own fake provider
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "disable_node_updaters": True,
            "gcs_address": self.address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        }
        configuration: dict[str, Any] = {
            "cluster_name": "darkroom",
            "max_workers": MOST_NODES,
            "provider": provider,
            "available_node_types": {
                "ray.head.default": HEAD,
                "gpu": NODE | {"max_workers": nodes},
            },
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.1,
            "file_mounts_sync_continuously": False,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in LISTS},
        }
        written = self.configuration.with_suffix(".new")
        written.write_text(json.dumps(configuration))
        written.replace(self.configuration)


def autoscaler(folder: Path) -> Iterator[Outcome]:
    pool = POOL | {"min_replicas": 0, "max_replicas": MOST_NODES, "keep_alive_s": 5}
    arguments = {"pools": {"small": pool}, "ingress_replicas": 1, "ingress_nodes": "head"}
    with site(folder, Plan(arguments=arguments, nodes=_autoscaled, place=_OnDemand)) as running:
        nodes = running.place.nodes
        assert isinstance(nodes, _Autoscaled)

        def grow(running: Site) -> Iterator[str]:
            began = time.monotonic()
            waited: dict[str, None] = {}  # in the order in which they were read

            def grown() -> bool:
                waited.update(dict.fromkeys(_reasons(running)))
                return _replicas(running) == _nodes_of(running) == MOST_NODES

            eventually(grown, "all nodes are there, with replicas", WITHIN_S)
            yield f"{MOST_NODES} nodes with replicas after {time.monotonic() - began:.0f} s"
            yield f"until then the oldest request said: {', '.join(waited)}"
            time.sleep(SERVED_S)

        def grow_late(running: Site) -> Iterator[str]:
            time.sleep(WITHOUT_S)
            assert _nodes_of(running) == 0
            with client_at(nodes.port) as client:
                status = client.get("/v1/status").raise_for_status().json()
            yield f"status says: {' '.join(status['unplaceable'].values())}"
            nodes.allow(MOST_NODES)
            yield from grow(running)

        for scenario, allowed, act in (
            ("no node, 2 nodes, no node", MOST_NODES, grow),
            ("no node can be started for 30 s", 0, grow_late),
        ):
            assert _nodes_of(running) == 0
            nodes.allow(allowed)
            outcome = under_load(running, f"autoscaler: {scenario}", act)
            emptied = time.monotonic()
            eventually(lambda: _replicas(running) == 0, "no replica is left", WITHIN_S)
            eventually(lambda: _nodes_of(running) == 0, "no node is left", WITHIN_S)
            gone = f"no node {time.monotonic() - emptied:.0f} s after the last request"
            yield replace(outcome, checked=(*outcome.checked, gone))


def _reasons(running: Site) -> Iterator[str]:
    """What the oldest request waits for, as its client reads it."""
    with psycopg.connect(running.place.conninfo) as connection:
        row = connection.execute(
            "SELECT id::text FROM requests WHERE state = 'queued' ORDER BY place LIMIT 1"
        ).fetchone()
    if row is None:
        return
    with client_at(running.place.nodes.port) as client:
        waiting = client.get(f"/v1/requests/{row[0]}").raise_for_status().json().get("waiting")
    if waiting:
        yield " ".join(part for name in ("reason", "stage") if (part := waiting[name]))


def _replicas(running: Site) -> int:
    return len(running.place.parts("replica"))


def _nodes_of(running: Site) -> int:
    """Number of nodes beside the head."""
    there = known_by(running.place.nodes.temporary)
    return sum(name_of(process) == "raylet" for process in there) - 1


@contextlib.contextmanager
def _autoscaled(folder: Path, switches: Mapping[str, str]) -> Generator[SeveralNodes, None, None]:
    gcs_port = free_port()
    temporary = SHORT_TEMP_DIR / f"darkroom-test-{gcs_port}"
    nodes = _Autoscaled(folder, temporary, f"127.0.0.1:{gcs_port}")
    nodes.allow(MOST_NODES)
    environment = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(temporary),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with (folder / "nodes.err").open("ab") as errors:
        process = subprocess.Popen(
            with_default_signals(
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
                *(f"--port={gcs_port}", "--node-ip-address=127.0.0.1", "--num-cpus=1"),
                *("--num-gpus=0", "--include-dashboard=false", f"--temp-dir={temporary}/ray"),
                *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"),
                f"--autoscaling-config={nodes.configuration}",
            ),
            env=clean_environment() | environment | dict(switches),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield nodes
    finally:
        end_all([process], str(temporary))
        shutil.rmtree(temporary, ignore_errors=True)
