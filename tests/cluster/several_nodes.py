"""Runs Darkroom on a Ray cluster of several nodes on this machine: a driver for test_nodes.py and
test_head.py.

    python -m tests.cluster.several_nodes TEMPORARY_DIRECTORY PORT GCS_PORT

A head without GPUs, and two nodes that say that they have one. Each line of its input is a JSON
object with the ``arguments`` of a Darkroom and the ``secrets`` of its environment, which replaces
the one before; or with ``kill``, ``gcs`` or ``head``, and ``down_s`` until it is started again. A
line ``placed`` with JSON says the nodes and on which of them each deployment's replicas are; a line
``refused`` why nothing started; a line ``killed``, and then ``started``, what was. Ends when its
input is closed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.cluster_utils import Cluster

from serve_app.app import ROOT, applications
from serve_app.settings import PoolConfig

OBJECT_STORE_BYTES = 80 * 2**20
WORKERS = ("A10G", "L4")
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


def cluster(head: dict[str, Any]) -> tuple[Cluster, dict[str, str]]:
    """And the names of the nodes by their ids. RAY_TMPDIR should be above ``temp_dir``: there Ray
    notes the address of the last cluster, which is no one else's business."""
    Path(head["temp_dir"]).mkdir(parents=True)
    made = Cluster(initialize_head=True, head_node_args=head)
    assert made.head_node is not None
    names = {made.head_node.node_id: "head"}
    for accelerator in WORKERS:
        node = made.add_node(
            num_cpus=1,
            num_gpus=1,
            resources={f"accelerator_type:{accelerator}": 1},
            object_store_memory=OBJECT_STORE_BYTES,
            **NO_LOGS,
        )
        names[node.node_id] = accelerator
    return made, names


def placed(names: dict[str, str], least: Mapping[str, int]) -> dict[str, list[str]]:
    """Deployment → the nodes of its replicas, when each pool has ``least`` replicas.

    A pool grows from none, when the ingress has written its bounds.
    """
    while True:
        nodes = _nodes_of_replicas()
        if all(len(nodes.get(name, [])) >= count for name, count in least.items()):
            return {name: [names[each] for each in found] for name, found in nodes.items()}
        time.sleep(0.2)  # the test has a limit


def _nodes_of_replicas() -> dict[str, list[str]]:
    """Deployment → the ids of the nodes of its replicas that have one."""
    from ray.serve.context import _get_global_client  # noqa: PLC0415  # what `serve status` uses

    client = _get_global_client()
    assert client is not None
    details: dict[str, Any] = client.get_serve_details()
    return {
        name: [each["node_id"] for each in one["replicas"] if each.get("node_id")]
        for application in details["applications"].values()
        for name, one in application["deployments"].items()
        if name != ROOT
    }


def main() -> None:
    temporary, port, gcs_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    head = head_arguments(temporary, gcs_port)
    made, names = cluster(head)
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            if "kill" in asked:
                ray.shutdown()  # a driver would be ended with the head
                _outage(made, head, asked["kill"], asked["down_s"])
            else:
                serve.shutdown()  # what the line before has started
                ray.shutdown()
                assert made.address is not None
                _run(made.address, port, asked["arguments"], asked["secrets"], names)
        serve.shutdown()
        ray.shutdown()
    finally:
        made.shutdown()


def _outage(made: Cluster, head: dict[str, Any], what: str, down_s: float) -> None:
    """Kill the control store (GCS), or all of the head, and start it again."""
    assert made.head_node is not None
    if what == "gcs":
        made.head_node.kill_gcs_server()
    else:
        for process in _processes_of(made.head_node):
            process.kill()
    _say("killed", what)
    time.sleep(down_s)
    if what == "gcs":
        made.head_node.start_gcs_server()
    else:
        parameters = RayParams(**head)
        parameters.update_if_absent(min_worker_port=0, max_worker_port=0)
        made.head_node = Node(parameters, head=True, shutdown_at_exit=True, spawn_reaper=True)
    _say("started", what)


def _processes_of(node: Node) -> list[psutil.Process]:
    """Processes of a node, parents before what they have started."""
    started = [
        psutil.Process(each.process.pid)
        for kind in node.all_processes.values()
        for each in kind
        if each.process.poll() is None
    ]
    return [*started, *(child for each in started for child in each.children(recursive=True))]


def _run(
    address: str, port: int, arguments: Any, secrets: dict[str, str], names: dict[str, str]
) -> None:
    ray.init(
        address=address,
        namespace="serve",
        log_to_driver=False,
        runtime_env={"env_vars": secrets},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
    try:
        serve.run_many(
            [
                serve.RunTarget(each.target, each.name, each.route_prefix)
                for each in applications(arguments).values()
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
        _say("placed", placed(names, least))


def _say(word: str, facts: object) -> None:
    sys.stdout.write(f"{word} {json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
