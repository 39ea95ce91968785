"""Runs Darkroom on a Ray cluster of several nodes on this machine: a driver for tests.

    python -m tests.cluster.several_nodes [--bridged] DIRECTORY PORT GCS_PORT [CLASS_OF_GPU …]

A head without GPUs, and nodes that say that they have one of these classes. They are on loopback,
or on the bridge of ``tests.cluster.network``, in which the driver itself must run. Each line of its
input is a JSON object, and each is answered by a line of a word and JSON:

- ``arguments`` of a Darkroom, the ``secrets`` of its environment and the location of its
  ``proxies``: replaces the Darkroom before. ``wait_for_placement`` says on which nodes each
  deployment's replicas are, ``refused`` why nothing started.
- ``deploy``, the path of a configuration file, which is deployed as `serve deploy` does:
  ``deployed``. The secrets are in the driver's own environment.
- ``replicas``: ``replicas``, of each deployment, with their states, actors and nodes.
- ``add``, a class of GPU: ``added``, the name of a further node.
- ``drain``, the name of a node, and ``deadline_s``: ``draining``, as by `ray drain-node`.
- ``where``, the name of a node: ``there``, the address of the GCS and the id of the node.
- ``remove``, the name of a node, which is killed: ``removed``.
- ``stop``: ``stopped``, when nothing of Serve's is left.
- ``kill``, ``gcs`` or ``head``: ``killed``; and ``start``, which starts the same again:
  ``started``. ``kill``, ``controller`` or ``proxy``: Serve itself starts those again.

Ends when its input is closed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray import serve
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client  # what `serve deploy` and `serve status` use
from ray.serve.schema import ServeDeploySchema

from serve_app.app import ROOT, applications
from serve_app.cli.commands.serve_config import serve_config
from serve_app.settings import PoolConfig
from tests.cluster import network
from tests.cluster.processes import command_of

OBJECT_STORE_BYTES = 80 * 2**20
NO_LOGS = {"include_log_monitor": False}  # a process for each node; nothing reads what they read


def head_arguments(temporary: str, gcs_port: int) -> dict[str, Any]:
    return {
        "num_cpus": 1,
        "num_gpus": 0,
        "include_dashboard": False,
        "no_monitor": True,  # of the autoscaler
        **NO_LOGS,
        "object_store_memory": OBJECT_STORE_BYTES,
        "temp_dir": str(Path(temporary) / "ray"),
        "gcs_server_port": gcs_port,  # a head that is started again has the same address
    }


class Nodes:
    """A cluster, and its nodes by name. RAY_TMPDIR should be above ``temp_dir``: there Ray notes
    the address of the last cluster, which is no one else's business."""

    def __init__(self, head: dict[str, Any], workers: Sequence[str], *, bridged: bool) -> None:
        temporary = Path(head["temp_dir"])
        temporary.mkdir(parents=True)
        self._address = network.address if bridged else "127.0.0.{}".format
        self._each: dict[str, Any] = {**NO_LOGS}
        if bridged:
            self._each["metrics_export_port"] = network.RAY_METRICS_PORT
            head = head | {"node_ip_address": network.HEAD} | self._each
            raylet = network.write_raylet(temporary, services.RAYLET_EXECUTABLE)
            services.RAYLET_EXECUTABLE = str(raylet)
        self.head = head
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        assert self.cluster.head_node is not None
        self.by_name: dict[str, Node] = {"head": self.cluster.head_node}
        self.names = {self.cluster.head_node.node_id: "head"}
        for accelerator in workers:
            self.add(accelerator)

    def add(self, accelerator: str) -> str:
        """Its name is the accelerator's, with a number if there was such a node before."""
        node = self.cluster.add_node(
            num_cpus=1,
            num_gpus=1,
            resources={f"accelerator_type:{accelerator}": 1},
            labels={"darkroom/gpu": accelerator},
            node_ip_address=self._address(len(self.names) + 1),  # as on machines of their own
            object_store_memory=OBJECT_STORE_BYTES,
            **self._each,
        )
        number = sum(name.partition("-")[0] == accelerator for name in self.names.values())
        name = f"{accelerator}-{number}" if number else accelerator
        self.by_name[name] = node
        self.names[node.node_id] = name
        return name

    def reap(self) -> None:
        """Collect processes of nodes that have ended. Workers of a raylet take one that was not
        collected for alive, and go on."""
        for node in self.by_name.values():
            for kind in node.all_processes.values():
                for entry in kind:
                    entry.process.poll()

    def remove(self, name: str) -> None:
        self.cluster.remove_node(self.by_name.pop(name), allow_graceful=False)

    def kill(self, what: str) -> None:
        assert self.cluster.head_node is not None
        if what == "gcs":
            self.cluster.head_node.kill_gcs_server()
        elif what == "head":
            for process in _processes_of(self.cluster.head_node):
                process.kill()
        else:
            title = {"controller": "ServeController", "proxy": "haproxy"}[what]
            there = _processes_of(self.cluster.head_node)
            processes = [candidate for candidate in there if title in command_of(candidate)]
            assert processes, f"no {title}"
            for process in processes:
                process.kill()

    def start(self, what: str) -> None:
        assert self.cluster.head_node is not None
        if what == "gcs":
            self.cluster.head_node.start_gcs_server()
        else:
            parameters = RayParams(**self.head)
            parameters.update_if_absent(min_worker_port=0, max_worker_port=0)
            self.cluster.head_node = Node(
                parameters, head=True, shutdown_at_exit=True, spawn_reaper=True
            )


def wait_for_placement(names: dict[str, str], least: Mapping[str, int]) -> dict[str, list[str]]:
    """Deployment → the nodes of its replicas, when each pool has ``least`` replicas.

    A pool grows from none, when the ingress has written its bounds.
    """
    while True:
        nodes = _nodes_of_replicas()
        if all(len(nodes.get(name, [])) >= count for name, count in least.items()):
            return {name: [names[node] for node in ids] for name, ids in nodes.items()}
        time.sleep(0.2)  # the test has a limit


def _nodes_of_replicas() -> dict[str, list[str]]:
    """Deployment → the ids of the nodes of its replicas that have one."""
    return {
        name: [replica["node_id"] for replica in replicas if replica.get("node_id")]
        for name, replicas in _replicas().items()
    }


def _replicas() -> dict[str, list[dict[str, Any]]]:
    """Deployment → its replicas."""
    client = _get_global_client()
    assert client is not None
    details: dict[str, Any] = client.get_serve_details()
    return {
        name: list(deployment["replicas"])
        for application in details["applications"].values()
        for name, deployment in application["deployments"].items()
        if name != ROOT
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bridged", action="store_true")
    parser.add_argument("temporary")
    parser.add_argument("port", type=int)
    parser.add_argument("gcs_port", type=int)
    parser.add_argument("workers", nargs="*")
    options = parser.parse_args()
    head = head_arguments(options.temporary, options.gcs_port)
    nodes = Nodes(head, options.workers, bridged=options.bridged)
    signal.signal(signal.SIGCHLD, lambda *_: nodes.reap())
    # On the bridge, HAProxy reaches an ingress at the address of its node.
    host = "0.0.0.0" if options.bridged else "127.0.0.1"  # noqa: S104 a network of its own
    http = {"host": host, "port": options.port}
    try:
        for line in sys.stdin:
            _do(json.loads(line), nodes, http)
        if ray.is_initialized():
            serve.shutdown()
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()


def _do(asked: dict[str, Any], nodes: Nodes, http: dict[str, Any]) -> None:
    if "arguments" in asked:
        serve.shutdown()  # what the line before has started
        ray.shutdown()
        _run(nodes, http, asked)
    elif "deploy" in asked:
        _deploy(nodes, http, Path(asked["deploy"]), asked["proxies"])
        _say("deployed", None)
    elif "stop" in asked:
        _connect(nodes)
        serve.shutdown()
        _say("stopped", None)
    elif "replicas" in asked:
        _connect(nodes)
        _say("replicas", _with_names(_replicas(), nodes.names))
    else:
        _do_to_nodes(asked, nodes)


def _do_to_nodes(asked: dict[str, Any], nodes: Nodes) -> None:
    if "add" in asked:
        _say("added", nodes.add(asked["add"]))
    elif "where" in asked:
        _say("there", [nodes.cluster.address, nodes.by_name[asked["where"]].node_id])
    elif "remove" in asked:
        ray.shutdown()  # a driver may be connected to this very node
        nodes.remove(asked["remove"])
        _say("removed", asked["remove"])
    elif "kill" in asked:
        ray.shutdown()  # a driver would be ended with the head
        nodes.kill(asked["kill"])
        _say("killed", asked["kill"])
    elif "start" in asked:
        nodes.start(asked["start"])
        _say("started", asked["start"])


def _with_names(
    replicas: dict[str, list[dict[str, Any]]], names: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    return {
        deployment: [
            {
                "actor": replica.get("actor_id") or "",
                "state": replica["state"],
                "node": names.get(replica.get("node_id") or "", ""),
            }
            for replica in group
        ]
        for deployment, group in replicas.items()
    }


def _connect(nodes: Nodes, secrets: Mapping[str, str] | None = None) -> None:
    """As a driver, unless it is one."""
    if ray.is_initialized():
        return
    assert nodes.cluster.address is not None
    ray.init(
        address=nodes.cluster.address,
        namespace="serve",
        log_to_driver=False,
        runtime_env={"env_vars": dict(secrets or {})},
    )


def _deploy(nodes: Nodes, http: dict[str, Any], file: Path, proxies: str) -> None:
    _connect(nodes)
    serve.start(proxy_location=proxies, http_options=http)
    client = _get_global_client()
    assert client is not None
    schema = ServeDeploySchema.model_validate(yaml.safe_load(serve_config(file, None)))
    client.deploy_apps(schema)


def _processes_of(node: Node) -> list[psutil.Process]:
    """Processes of a node, parents before what they have started."""
    started = [
        psutil.Process(entry.process.pid)
        for kind in node.all_processes.values()
        for entry in kind
        if entry.process.poll() is None
    ]
    return [*started, *(child for process in started for child in process.children(recursive=True))]


def _run(nodes: Nodes, http: dict[str, Any], asked: dict[str, Any]) -> None:
    arguments = asked["arguments"]
    _connect(nodes, asked["secrets"])
    serve.start(proxy_location=asked["proxies"], http_options=http)
    try:
        serve.run_many(
            [
                serve.RunTarget(application.target, application.name, application.route_prefix)
                for application in applications(arguments).values()
            ]
        )
    except RuntimeError:
        messages = [
            deployment.message
            for application in serve.status().applications.values()
            for deployment in application.deployments.values()
        ]
        _say("refused", messages)
    else:
        pools = {name: PoolConfig(**pool) for name, pool in arguments["pools"].items()}
        least = {name: pool.min_replicas for name, pool in pools.items()}
        _say("placed", wait_for_placement(nodes.names, least))


def _say(word: str, facts: object) -> None:
    sys.stdout.write(f"{word} {json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
