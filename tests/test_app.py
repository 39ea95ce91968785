"""What the composition root makes of pools whose replicas have several devices."""

import json
import subprocess
import sys
from typing import Any

import pytest

OWN_SLOTS = {"families": ["sdxl"], "num_gpus": 1, "min_replicas": 0, "max_replicas": 2}
POOLS: dict[str, dict[str, Any]] = {
    "three devices": {
        "families": ["video"],
        "devices_per_replica": 3,
        "num_gpus": 1,
        "num_cpus": 2,
        "accelerator": "H100",
        "resources": {"fast_disk": 1},
    },
    "one device": {"families": ["video"]},
    "images": {"families": ["flux"]},
    "half a GPU": {"families": ["video"], "devices_per_replica": 2, "num_gpus": 0.5},
    "no CPU": {"families": ["video"], "devices_per_replica": 2, "num_cpus": 0},
    "keys beside code": {"families": ["python", "fal", "cog", "openai"]},
    "providers": {"families": ["fal", "replicate", "openai", "darkroom"]},
    "large": {**OWN_SLOTS, "accelerator": "H100"},
    "three slots": {**OWN_SLOTS, "slots": 3},
}

# In a process without pytest's strictness about warnings, because it imports ray.
BUILD = """
import json, sys
from serve_app.app import build
from serve_app.domain.errors import Misconfigured

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
        "environment": reported.ray_actor_options["runtime_env"]["env_vars"],
    }

print(json.dumps([pool(**each) for each in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def pools() -> dict[str, Any]:
    """What ``POOLS`` become: one process imports Ray for all."""
    payload = json.dumps([*POOLS.values()])
    ran = subprocess.run(
        [sys.executable, "-c", BUILD, payload], check=True, capture_output=True, text=True
    )
    return dict(zip(POOLS, json.loads(ran.stdout), strict=True))


@pytest.mark.long
def test_a_replica_with_several_devices_gets_a_bundle_for_each_on_one_node(
    pools: dict[str, Any],
) -> None:
    several, single = pools["three devices"], pools["one device"]
    first, *others = several["bundles"]
    device = {"CPU": 2, "GPU": 1}
    assert first == device | {"fast_disk": 1, "accelerator_type:H100": 0.001}
    assert others == [device] * 2
    assert several["strategy"] == "STRICT_PACK"
    assert several["devices"] == 3
    assert several["log_format"] == "json"
    assert single["bundles"] is None
    assert "GLOO_SOCKET_IFNAME" not in single["environment"]


def test_replicas_keep_compiled_code_in_the_data_directory(pools: dict[str, Any]) -> None:
    assert pools["images"]["environment"]["TORCHINDUCTOR_CACHE_DIR"].endswith("/compiled")


def test_pools_that_cannot_be_are_refused_in_a_sentence(pools: dict[str, Any]) -> None:
    mixed = pools["keys beside code"]
    assert "hosts fal, openai, whose keys its replicas hold, and python, cog" in mixed
    assert "Give the hosted providers a pool of their own." in mixed
    assert isinstance(pools["providers"], dict)
    assert "num_gpus to 1" in pools["half a GPU"]
    assert "num_cpus above 0" in pools["no CPU"]


def test_replicas_have_the_slots_of_their_class_of_gpu(pools: dict[str, Any]) -> None:
    assert pools["large"]["slots"] == 16
    assert pools["three slots"]["slots"] == 3


PARTS = """
import json, sys
from serve_app.app import APPLICATION, applications, build

settings = json.loads(sys.argv[1])

def bound(application):
    return application._bound_deployment

whole = bound(bound(build(settings)).init_args[1][0])
parts = applications(settings)
part = bound(bound(parts["darkroom-videos"].target).init_args[0])
ingress = bound(parts[APPLICATION].target)
print(json.dumps({
    "names": list(parts),
    "whole": [repr(each) for each in whole.init_args[:4]] + [repr(whole._replica_config.ray_actor_options)],
    "part": [repr(each) for each in part.init_args[:4]] + [repr(part._replica_config.ray_actor_options)],
    "ingress of": [whole.init_args[4], part.init_args[4]],
    "args": parts["darkroom-videos"].args,
    "pools": list(ingress.init_args[0].models.pools),
    "places": {
        nodes: bound(build({**settings, "ingress_nodes": nodes}))._replica_config.ray_actor_options
        for nodes in ("head", "any", "darkroom/role=ingress")
    },
}))
"""  # noqa: E501


@pytest.mark.long
def test_a_pool_has_the_same_replicas_in_an_application_of_its_own() -> None:
    settings = {
        "gpus": 0,
        "data_dir": "/data",
        "pools": {
            "videos": {"families": ["video", "mine"], "threads": 3, "max_replicas": 4},
            "others": {"families": ["flux"]},
        },
        "families": {"mine": "shop:Mine"},
        "adapters_dir": "/adapters",
        "adapters_max_bytes": 5,
        "allow_private_urls": True,
        "log_file": "/log",
        "log_level": "ERROR",
        "max_adapter_bytes": 6,
        "min_download_bytes_per_s": 7,
        "offline": True,
        "realtime_idle_s": 8,
        "s3_bucket": "bucket",
        "tuning_file": "/tuning.json",
        "weights_dir": "/weights",
        "weights_max_bytes": 9,
        "weights_mirror": "s3://mirror/prefix",
        "weights_mirror_endpoint_url": "http://mirror",
        "weights_mirror_profile": "mirror",
    }
    ran = subprocess.run(
        [sys.executable, "-c", PARTS, json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
    )
    document = json.loads(ran.stdout)
    assert document["names"] == ["darkroom", "darkroom-videos", "darkroom-others"]
    assert document["part"] == document["whole"]
    assert document["ingress of"] == [None, "darkroom"]
    assert "max_replicas" not in document["args"]["pools"]["videos"]
    assert document["pools"] == ["videos", "others"]
    head, any_node, labelled = document["places"].values()
    assert head["resources"] == {"node:__internal_head__": 0.001}
    assert not any_node.get("resources")
    assert not any_node.get("label_selector")
    assert labelled["label_selector"] == {"darkroom/role": "ingress"}
    assert not labelled.get("resources")
