"""Store settings that replicas receive, which contain no secret."""

import json
import subprocess
import sys

import pytest

# In a process without pytest's strict warnings, because it imports ray.
BUILD = """
import json
from serve_app.app import build
from serve_app.domain.errors import Misconfigured
settings = {
    "gpus": 0,
    "weights_dir": "/srv/weights",
    "weights_max_bytes": 10**12,
    "weights_mirror": "s3://house/models",
    "weights_mirror_profile": "models",
    "weights_shared_dir": "/mnt/weights",
    "weights_peers": 2,
    "offline": True,
}
pool = build(settings)._bound_deployment.init_args[1][0]._bound_deployment
try:
    build({**settings, "weights_mirror": "house/models"})
except Misconfigured as error:
    refused = error.message
weights = pool.init_args[1].weights
print(json.dumps({
    "store": {name: str(getattr(weights, name)) for name in weights.__dataclass_fields__},
    "environment": pool.ray_actor_options["runtime_env"]["env_vars"],
    "refused": refused,
}))
"""


@pytest.mark.long
def test_replicas_know_where_weights_come_from_and_a_wrong_mirror_stops_the_start() -> None:
    ran = subprocess.run([sys.executable, "-c", BUILD], check=True, capture_output=True, text=True)
    printed = json.loads(ran.stdout)
    assert printed["store"] == {
        "directory": "/srv/weights",
        "max_bytes": "1000000000000",
        "mirror": "s3://house/models",
        "mirror_endpoint_url": "",
        "mirror_profile": "models",
        "offline": "True",
        "shared_directory": "/mnt/weights",
        "peers": "2",
        "peer_bytes_per_s": "500000000",
    }
    # For code that calls the hub's library directly.
    assert printed["environment"]["HF_HUB_CACHE"] == "/srv/weights"
    assert printed["environment"]["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in printed["environment"]
    assert "s3://bucket/prefix" in printed["refused"]
