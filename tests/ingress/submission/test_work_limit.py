"""A request that no GPU of its pool can make is refused when it is submitted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.settings import PoolConfig
from tests.ingress.house import build_house

SCHNELL = """
endpoints:
  fal-ai/flux/schnell:
    family: flux
    schema: flux-text-to-image
    weights: {directory: /srv/flux}
    recipes:
      - {memory_gb: 24, precision: bfloat16, largest: {megapixels: 1.1}}
      - {memory_gb: 80, precision: bfloat16, largest: {megapixels: 9}}
"""
LARGE = {"prompt": "x", "image_size": {"width": 2048, "height": 2048}}


def pool(accelerator: str | None) -> PoolConfig:
    return PoolConfig(families=("flux",), num_gpus=1, accelerator=accelerator)


def of_schnell(directory: Path) -> Catalog:
    file = directory / "models.yaml"
    file.write_text(SCHNELL)
    return load(file, demo=False, demo_dir=directory)


@pytest.mark.variants(1)
@pytest.mark.parametrize(("accelerator", "status"), [("L4", 422), ("H100", 200), (None, 200)])
async def test_the_class_of_the_pools_gpus_decides(
    tmp_path: Path, accelerator: str | None, status: int
) -> None:
    catalog = await asyncio.to_thread(of_schnell, tmp_path)
    pools = {"gpus": pool(accelerator)}
    async with (
        build_house(replica=False, pools=pools, catalog=catalog) as house,
        house.client() as http,
    ):
        answer = await http.post("/queue/fal-ai/flux/schnell", json=LARGE)
        assert answer.status_code == status
        if status == 422:
            (problem,) = answer.json()["detail"]
            assert problem["loc"] == ["body", "image_size"]
            assert "(24 GB)" in problem["msg"]


def test_a_gpu_that_is_sold_with_several_amounts_of_memory_is_left_to_the_replica() -> None:
    assert pool("A100").device_bytes is None
    assert pool("L4").device_bytes == 24 * 10**9
    assert (
        PoolConfig(families=("flux",), accelerator="L4").device_bytes is None
    )  # no GPU is asked for
