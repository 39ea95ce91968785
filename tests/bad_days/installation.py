"""A Darkroom on a cluster of three nodes for bad days, and its parts as processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.queue.store.migrations import migrate
from tests.chaos.proxy import Proxy, before_postgres, through
from tests.cluster import network
from tests.cluster.darkroom import eventually
from tests.cluster.nodes import (
    IMPATIENT,
    SeveralNodes,
    client_at,
    haproxy_switches,
    in_bucket,
    several_nodes,
    with_stores,
)
from tests.cluster.processes import command_of, known_by, name_of
from tests.crash.test_database import postmaster
from tests.queue.database import Background
from tests.storage.s3_servers import S3Server, moto
from tests.webhooks.receiver import Receiver

GPU = "L4"
REPLICAS = INGRESSES = 2
POOL = {
    "families": ["small"],
    "num_gpus": 1,
    "num_cpus": 0.1,
    "min_replicas": REPLICAS,
    "max_replicas": REPLICAS,
    "slots": 2,
}
TITLES = {
    "replica": "ray::ServeReplica:darkroom-small:small",
    "ingress": "ray::ServeReplica:darkroom:ingress",
    "gcs": "gcs_server",
    "controller": "ray::ServeController",
    "haproxy manager": "ray::HAProxyManager",
    "proxy actor": "ray::ProxyActor",
}


EARLY = {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "1.5",
    "RAY_SERVE_PROXY_GRACEFUL_SHUTDOWN_TIMEOUT_S": "1",
}
"""As `cluster.yaml` and the chart have it. Clients of other tests do not repeat the calls that a
HAProxy loses which is given up because the machine is busy."""

METRICS_PORT = 9108
EACH = "0.0.0.0"  # noqa: S104 addresses of the node, in a network of its own


@dataclass
class Installation:
    """HAProxy, Serve's proxies and its controller are on the head; an ingress and a replica are on
    each of two other nodes. ``database`` and ``storage`` are proxies on the way there. If
    ``bridged``, nodes are on the bridge of ``network``, and have metrics at the same ports."""

    bridged: bool
    nodes: SeveralNodes
    folder: Path
    conninfo: str
    s3: S3Server
    bucket: str
    background: Background
    database: Proxy
    storage: Proxy
    receiver: Receiver
    haproxy_metrics: str  # host:port

    def parts(self, name: str) -> list[psutil.Process]:
        """Processes of a part. Of those that are there twice, all."""
        there = known_by(self.nodes.temporary)
        if name == "haproxy":
            return [process for process in there if name_of(process) == "haproxy"]
        return [process for process in there if TITLES[name] in command_of(process)]

    def pick_one(self, name: str) -> list[psutil.Process]:
        """One replica or ingress, or all that its node has. The node is that of a replica."""
        if name == "postgresql":
            first = postmaster(self.folder / "database")
            return [first, *first.children(recursive=True)]
        if name not in ("raylet", "node"):
            return self.parts(name)[:1]
        processes = self._raylets("replica")[:1]
        if name == "node":
            processes += [
                child for parent in processes for child in parent.children(recursive=True)
            ]
        return processes

    def addresses(self) -> list[str]:
        """Addresses of the nodes with an ingress."""
        return sorted({address_of(raylet) for raylet in self._raylets("ingress")})

    def _raylets(self, name: str) -> list[psutil.Process]:
        """Raylets of the processes of a part, without processes that have outlived their raylet."""
        parents = [process.parent() for process in self.parts(name)]
        return [parent for parent in parents if parent is not None and name_of(parent) == "raylet"]

    def is_whole(self) -> bool:
        """True if HAProxy, both ingresses and both replicas are there, and replicas are ready."""
        counts = {"ingress": INGRESSES, "replica": REPLICAS}
        if any(len(self._raylets(name)) < count for name, count in counts.items()):
            return False
        if not self.parts("haproxy"):
            return False
        try:
            with client_at(self.nodes.port) as client:
                client.timeout = httpx.Timeout(5)
                shown = client.get("/v1/status").raise_for_status().json()["replicas"]
        except httpx.HTTPError:
            return False
        fresh = [
            replica for replica in shown if replica["seen_s"] < 7 and replica["stage"] == "ready"
        ]
        return len(fresh) == REPLICAS

    def objects(self) -> dict[str, bytes]:
        """What lies in the bucket, by key."""
        client = self.s3.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        contents = {
            entry["Key"].removeprefix("art/"): client.get_object(
                Bucket=self.bucket, Key=entry["Key"]
            )["Body"].read()
            for page in pages
            for entry in page.get("Contents", ())
        }
        client.close()
        return contents

    def on_loop(self, do: Callable[[], Any]) -> None:
        """Call ``do`` on the event loop of the proxies."""

        async def call() -> None:
            do()

        self.background.run(call())


def address_of(raylet: psutil.Process) -> str:
    option = "--node_ip_address="
    return next(
        argument.removeprefix(option)
        for argument in raylet.cmdline()
        if argument.startswith(option)
    )


def installation_settings(folder: Path) -> dict[str, Any]:
    """Settings of the installation without those of its stores. Writes its catalogue."""
    models = folder / "models.yaml"
    models.write_text(
        "endpoints: {test/small: {family: small, schema: open, "
        "options: {artifacts_field: artifacts}}}"
    )
    return {
        "data_dir": str(folder / "data"),
        "models": str(models),
        "families": {"small": "tests.fakes.family:ProbeFamily"},
        "pools": {"small": POOL},
        "ingress_replicas": INGRESSES,
        "ingress_nodes": f"darkroom/gpu={GPU}",
        "allow_private_webhooks": True,
        "demo": False,
        "lease_s": 6,
    }


@contextlib.contextmanager
def installation(folder: Path, *, bridged: bool = False) -> Generator[Installation, None, None]:
    """Started and whole."""
    here = network.HEAD if bridged else "127.0.0.1"
    metrics = {"metrics_host": EACH, "metrics_port": METRICS_PORT} if bridged else {}
    with contextlib.ExitStack() as stack:
        background = stack.enter_context(Background())
        postgres = EmbeddedPostgres(folder / "database", grace_s=0.5)
        conninfo = background.run(postgres.start())
        stack.callback(lambda: background.run(postgres.aclose()))
        background.run(migrate(conninfo))
        s3 = stack.enter_context(moto())
        host, _, port = s3.url.removeprefix("http://").partition(":")
        database = before_postgres(conninfo)
        storage = Proxy(lambda: asyncio.open_connection(host, int(port)))
        receiver = Receiver(host=here)
        database_port, storage_port = (
            background.run(backend.start(here)) for backend in (database, storage)
        )
        background.run(receiver.start())
        for service in (database, storage, receiver):
            stack.callback(lambda service=service: background.run(service.aclose()))
        behind = replace(s3, url=f"http://{here}:{storage_port}")
        bucket = in_bucket(behind)
        switches = stack.enter_context(haproxy_switches())
        store = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")}
        secrets = with_stores(through(conninfo, database_port, here), behind)
        nodes = stack.enter_context(
            several_nodes(
                folder,
                (GPU, GPU),
                bridged=bridged,
                **(switches | store | EARLY | IMPATIENT | secrets),
            )
        )
        word, facts, _ = nodes.run({}, {**installation_settings(folder), **metrics, **bucket})
        assert word == "placed", facts
        place = Installation(
            bridged,
            nodes,
            folder,
            conninfo,
            s3,
            str(bucket["s3_bucket"]),
            background,
            database,
            storage,
            receiver,
            f"127.0.0.1:{switches['RAY_SERVE_HAPROXY_METRICS_PORT']}",
        )
        eventually(place.is_whole, "it serves")
        yield place
