"""What `serve deploy` does, on a cluster without Ray's dashboard:

python -m tests.operations.deploy GCS_ADDRESS HTTP_PORT < serve.yaml
"""

from __future__ import annotations

import sys

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client  # what `serve deploy` uses
from ray.serve.schema import ServeDeploySchema


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    ray.init(address=address, namespace="serve", log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin)))
    ray.shutdown()


if __name__ == "__main__":
    main()
