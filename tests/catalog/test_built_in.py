"""Guarantees of the built-in catalogue."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from deployments.families.registry import FAMILIES
from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.errors import EndpointNotServed
from tests.catalog.conftest import DEMO

SCHNELL, SDXL, ESRGAN = "fal-ai/flux/schnell", "fal-ai/fast-sdxl", "fal-ai/esrgan"
SDXS = "darkroom/sdxs"
UNPINNED = {ESRGAN}
IMAGES = {"text-to-image", "image-to-image", "inpainting", "realtime", "upscaling"}
TASKS = IMAGES | {"text-to-video", "image-to-video", "text-to-audio"}
MEMORIES_GB = [12, 16, 24, 32, 48, 80, 96, 141, 192]
FROM_ONE_SIZE_ON = {
    "fal-ai/ltx-2/text-to-video": MEMORIES_GB[1:],  # its text encoder has 12 GB
    "darkroom/qwen-image-lightning": MEMORIES_GB[1:],  # text encoder and adapters
    "fal-ai/stable-audio": MEMORIES_GB[:1],
    "fal-ai/ace-step": MEMORIES_GB[:1],
    SDXS: MEMORIES_GB[:1],
    ESRGAN: MEMORIES_GB[:1],
}
"""Small models have one recipe for all sizes."""


def missing(catalog: Catalog, endpoint_id: str) -> str:
    with pytest.raises(EndpointNotServed, match=endpoint_id) as caught:
        catalog.validate(endpoint_id, {"prompt": "x"})
    return caught.value.message


def test_every_endpoint_has_a_licence_a_task_and_a_recipe_for_each_size_of_device(
    catalog: Catalog,
) -> None:
    for entry in catalog:
        endpoint = entry.endpoint
        assert endpoint.licence, endpoint.id
        assert endpoint.description, endpoint.id
        assert endpoint.options["task"] in TASKS, endpoint.id
        sizes = [recipe.memory_gb for recipe in endpoint.recipes]
        assert sizes == FROM_ONE_SIZE_ON.get(endpoint.id, MEMORIES_GB), endpoint.id
        for recipe in endpoint.recipes:
            assert len(set(recipe.hot)) == len(recipe.hot) > 0


def test_more_memory_never_makes_a_recipe_worse(catalog: Catalog) -> None:
    precisions = ["float8", "float16", "bfloat16", "float32"]
    offloads = ["blocks", "components", "none"]
    for entry in catalog:
        recipes = entry.endpoint.recipes
        for less, more in pairwise(recipes):
            worse = offloads.index(more.offload) < offloads.index(less.offload)
            coarser = precisions.index(more.precision) < precisions.index(less.precision)
            assert not worse, entry.endpoint.id
            assert not coarser, entry.endpoint.id


def test_weights_are_pinned_or_the_endpoint_is_not_served(catalog: Catalog) -> None:
    unpinned = {entry.endpoint.id for entry in catalog if entry.endpoint.weights.revision is None}
    assert unpinned == UNPINNED
    assert all("`weights.revision`" in missing(catalog, endpoint_id) for endpoint_id in unpinned)
    assert all(not entry.missing for entry in catalog if entry.endpoint.id not in unpinned)


def test_real_weights_draw_at_the_size_that_is_asked_for(catalog: Catalog) -> None:
    assert [entry.endpoint.id for entry in catalog if "native_size" in entry.endpoint.options] == []


def test_what_comes_along_has_families_for_all_but_the_upscaler() -> None:
    catalog = load(None, demo=False, demo_dir=DEMO, families=FAMILIES)
    assert {entry.endpoint.id for entry in catalog if entry.missing} == UNPINNED
    homeless = {
        endpoint_id
        for endpoint_id in UNPINNED
        if "hosts its family" in missing(catalog, endpoint_id)
    }
    assert homeless == {ESRGAN}


def test_endpoints_of_one_model_share_its_weights(catalog: Catalog) -> None:
    def weights(*names: str) -> int:
        return len({catalog.get(f"fal-ai/{name}").endpoint.weights for name in names})

    assert weights("flux/dev", "flux/dev/image-to-image", "flux-lora") == 1
    assert weights("fast-sdxl", "fast-sdxl/image-to-image", "fast-sdxl/inpainting") == 1
    assert weights("flux/dev", "flux/schnell", "fast-sdxl") == 3


def test_in_demo_mode_what_has_no_demo_model_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text("{}")
    catalog = load(None, demo=True, demo_dir=tmp_path)
    assert catalog.get(SCHNELL).demo
    assert "demo weights `sdxl`" in missing(catalog, SDXL)
    assert "no demo model" in missing(catalog, "fal-ai/qwen-image")
    assert "DARKROOM_DEMO=false" in missing(catalog, SDXL)


def test_beside_demo_models_one_small_real_model_is_served_and_says_what_it_takes() -> None:
    catalog = load(None, demo=True, demo_dir=DEMO)
    real = [entry for entry in catalog if not entry.missing and not entry.demo]
    assert [entry.endpoint.id for entry in real] == [SDXS]
    cpu = real[0].source.cpu
    assert cpu is not None
    assert cpu.seconds
    assert cpu.download_gb
    assert cpu.download_gb < 4
    checked = catalog.validate(SDXS, {"prompt": "a fox"})
    assert checked.input["num_inference_steps"] == 1
    assert not any("demo" in warning for warning in checked.warnings)


def test_a_demo_model_needs_no_recipe() -> None:
    assert load(None, demo=True, demo_dir=DEMO).get(SCHNELL).endpoint.recipes == ()


def test_a_demo_model_may_have_defaults_of_its_own() -> None:
    for demo, guidance in ((False, 7.5), (True, 2.0)):
        catalog = load(None, demo=demo, demo_dir=DEMO)
        assert catalog.validate(SDXL, {"prompt": "x"}).input["guidance_scale"] == guidance


def test_without_its_family_an_endpoint_is_listed_with_the_reason() -> None:
    catalog = load(None, demo=True, demo_dir=DEMO, families={"flux"})
    assert not catalog.get(SCHNELL).missing
    reason = missing(catalog, "fal-ai/qwen-image")
    assert "family `generic`" in reason
    assert "DARKROOM_POOLS" in reason
    assert "DARKROOM_DEMO" not in reason  # it would not help
