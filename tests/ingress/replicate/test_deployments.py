"""Deployments: endpoints with what keeps their replicas ready."""

from __future__ import annotations

from serve_app.settings import PoolConfig
from tests.ingress.house import OTHERS, build_house

FLUX, SDXL = "fal-ai/flux-schnell", "fal-ai/fast-sdxl"
DEPLOYMENTS = "/replicate/v1/deployments"


async def test_a_warm_target_is_the_least_and_the_pool_s_limit_the_most() -> None:
    pools = {
        "small": PoolConfig(families=("sdxl",), max_replicas=2),
        "large": PoolConfig(families=("flux",), max_replicas=4, accelerator="H100", num_gpus=1),
    }
    house_of = build_house(catalog=OTHERS, replica=False, pools=pools)
    async with house_of as house, house.client() as client:
        target = {"endpoint_id": "fal-ai/flux/schnell", "replicas": 3}
        assert (await client.post("/v1/warm", json=target)).status_code == 200
        shown = {
            name: (await client.get(f"{DEPLOYMENTS}/{name}")).json()["current_release"]
            for name in (FLUX, SDXL)
        }
        assert shown[FLUX]["configuration"] == {
            "hardware": "large",
            "min_instances": 3,
            "max_instances": 4,
        }
        assert shown[SDXL]["configuration"]["min_instances"] == 0
        pools_shown = (await client.get("/replicate/v1/hardware")).json()
        assert {pool["sku"]: pool["name"] for pool in pools_shown} == {
            "small": "Pool small",
            "large": "Pool large (80 GB GPUs)",
        }


async def test_pages_of_deployments_follow_each_other() -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        listed = (await client.get(DEPLOYMENTS)).json()
        assert (listed["previous"], listed["next"]) == (None, None)
        wrong = await client.get(f"{DEPLOYMENTS}?cursor=nothing")
        assert (wrong.status_code, "cursor" in wrong.text) == (422, True)
