"""What the composition root makes of pools whose replicas have several devices."""

import json
import subprocess
import sys

# In a process without pytest's strictness about warnings, because it imports ray.
BUILD = """
import json, sys
from serve_app.app import build
from serve_app.domain.errors import Misconfigured

def scaled_by(bound):
    scaling = bound._deployment_config.autoscaling_config
    return scaling and scaling.policy.policy_kwargs["slots"]

def pool(**settings):
    try:
        application = build({"gpus": 0, "pools": {"videos": settings}, "log_format": "json"})
    except Misconfigured as error:
        return error.message
    bound = application._bound_deployment.init_args[1][0]._bound_deployment
    reported = bound._replica_config
    return {
        "bundles": reported.placement_group_bundles,
        "strategy": reported.placement_group_strategy,
        "devices": bound.init_args[1].devices,
        "slots": bound.init_args[1].slots,
        "log_format": bound.init_args[1].log_format,
        "scaled by": scaled_by(bound),
        "environment": reported.ray_actor_options["runtime_env"]["env_vars"],
    }

print(json.dumps([pool(**each) for each in json.loads(sys.argv[1])]))
"""


def built(*pools: dict[str, object]) -> list[dict[str, object] | str]:
    ran = subprocess.run(
        [sys.executable, "-c", BUILD, json.dumps(pools)], check=True, capture_output=True, text=True
    )
    return json.loads(ran.stdout)


def test_a_replica_with_several_devices_gets_a_bundle_for_each_on_one_node() -> None:
    several, one = built(
        {
            "families": ["video"],
            "devices_per_replica": 3,
            "num_gpus": 1,
            "num_cpus": 2,
            "accelerator": "H100",
            "resources": {"fast_disk": 1},
        },
        {"families": ["video"]},
    )
    assert isinstance(several, dict)
    first, *others = several["bundles"]  # type: ignore[misc]
    device = {"CPU": 2, "GPU": 1}
    assert first == device | {"fast_disk": 1, "accelerator_type:H100": 0.001}
    assert others == [device] * 2
    assert several["strategy"] == "STRICT_PACK"
    assert several["devices"] == 3
    assert several["log_format"] == "json"
    assert isinstance(one, dict)
    assert one["bundles"] is None
    assert "GLOO_SOCKET_IFNAME" not in one["environment"]  # type: ignore[operator]


def test_replicas_keep_compiled_code_in_the_data_directory() -> None:
    (pool,) = built({"families": ["flux"]})
    assert isinstance(pool, dict)
    environment = pool["environment"]
    assert isinstance(environment, dict)
    assert environment["TORCHINDUCTOR_CACHE_DIR"].endswith("/compiled")


def test_what_several_devices_cannot_do_is_refused_in_a_sentence() -> None:
    shared, nothing = built(
        {"families": ["video"], "devices_per_replica": 2, "num_gpus": 0.5},
        {"families": ["video"], "devices_per_replica": 2, "num_cpus": 0},
    )
    assert "num_gpus to 1" in shared
    assert "num_cpus above 0" in nothing


def test_a_pool_is_scaled_by_the_slots_that_its_replicas_have_on_its_class_of_gpu() -> None:
    pool = {"families": ["sdxl"], "num_gpus": 1, "min_replicas": 0, "max_replicas": 2}
    large, own = built({**pool, "accelerator": "H100"}, {**pool, "slots": 3})
    assert isinstance(large, dict)
    assert isinstance(own, dict)
    assert (large["slots"], large["scaled by"]) == (16, 16)
    assert (own["slots"], own["scaled by"]) == (3, 3)
