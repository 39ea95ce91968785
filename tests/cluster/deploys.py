"""Runs `serve deploy` on a Ray of its own: a driver for test_deploys.py.

    python -m tests.cluster.deploys TEMPORARY_DIRECTORY PORT

A node that says that it has GPUs. A line of its input is a word: ``deploy`` and the path of a
configuration file, which is deployed as `darkroom serve-config` and `serve deploy` do; or
``replicas``. Each is answered by a line of JSON: the actors of each deployment's running replicas.
Ends when its input is closed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client  # what `serve deploy` and `serve status` use
from ray.serve.schema import ServeDeploySchema

from serve_app.app import ROOT
from serve_app.cli.commands.serve_config import serve_config

GPUS = 4
OBJECT_STORE_BYTES = 80 * 2**20


def replicas() -> dict[str, list[str]]:
    """Deployment → the actors of its replicas that run."""
    client = _get_global_client()
    assert client is not None
    details: dict[str, Any] = client.get_serve_details()
    return {
        name: [
            replica["actor_id"]
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        ]
        for application in details["applications"].values()
        for name, deployment in application["deployments"].items()
        if name != ROOT
    }


def deploy(path: str) -> None:
    client = _get_global_client()
    assert client is not None
    schema = ServeDeploySchema.model_validate(yaml.safe_load(serve_config(Path(path), None)))
    client.deploy_apps(schema)


def main() -> None:
    temporary, port = sys.argv[1], int(sys.argv[2])
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=GPUS,
        namespace="serve",
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=temporary,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
    for line in sys.stdin:
        word, _, path = line.strip().partition(" ")
        if word == "deploy":
            deploy(path)
        sys.stdout.write(f"replicas {json.dumps(replicas())}\n")
        sys.stdout.flush()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
