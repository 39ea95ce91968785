"""The largest work of the built-in recipes, from the memory of their models."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.work import requested_work
from serve_app.domain.errors import InvalidInput, Misconfigured

IMAGE_MEMORY = """
    memory:
      weights: {transformer: 8.0, text_encoder: 4.0, vae: 0.2}
      streamed: 1.0
      forward: {per_volume: 1.0}
      decode: {per_volume: 2.0}
      tiled: {fixed: 1.0, per_volume: 0.01}
"""
ENTRY = """
endpoints:
  a/b:
    family: generic
    schema: qwen-image-text-to-image
    weights: {directory: /srv/weights}
    recipes:
      - RECIPE
"""
TOO_SMALL_FOR_THE_DEFAULTS = {
    ("fal-ai/hunyuan-video", 12),
    ("fal-ai/hunyuan-video", 16),
    ("fal-ai/hunyuan-video-image-to-video", 12),
    ("fal-ai/hunyuan-video-image-to-video", 16),
    ("fal-ai/ltx-2/text-to-video", 16),
    ("fal-ai/wan/v2.2-a14b/text-to-video", 12),
    ("fal-ai/wan/v2.2-a14b/image-to-video", 12),
    ("fal-ai/wan/v2.2-a14b/text-to-video/turbo", 12),
    ("fal-ai/wan/v2.2-a14b/image-to-video/turbo", 12),
}
"""129 frames, or 81 beside two denoisers, of 720p need more for a step than these GPUs have, and so
do 150 frames of 1080p."""


def load_catalog(tmp_path: Path, recipe: str, memory: str = IMAGE_MEMORY) -> Catalog:
    file = tmp_path / "models.yaml"
    file.write_text(ENTRY.replace("RECIPE", recipe) + memory)
    return load(file, demo=False, demo_dir=tmp_path)


def test_the_default_request_fits_every_class_or_is_known_not_to(catalog: Catalog) -> None:
    refused: set[tuple[str, float]] = set()
    for entry in catalog:
        if entry.missing:
            continue
        files = {"image_url": "https://a/b.png", "mask_url": "https://a/b.png", "prompt": "x"}
        validated, _ = entry.schema.validate({**files, "tags": "x"})
        video = entry.endpoint.options.get("video_format") or {}
        work = requested_work({**video, **{k: v for k, v in validated.items() if v is not None}})
        for recipe in entry.endpoint.recipes:
            if recipe.largest is None or work is None:
                continue
            try:
                recipe.largest.check(work, entry.endpoint.id, recipe.memory_gb)
            except InvalidInput:
                refused.add((entry.endpoint.id, recipe.memory_gb))
    assert refused == TOO_SMALL_FOR_THE_DEFAULTS


def test_more_memory_never_allows_less(catalog: Catalog) -> None:
    for entry in catalog:
        asked_for = 92.0 if "video" in entry.endpoint.category else 2.1
        limits = [recipe.largest for recipe in entry.endpoint.recipes if recipe.largest is not None]
        for less, more in pairwise(limits):
            assert more.volume >= min(less.volume, asked_for), entry.endpoint.id


def test_only_models_whose_work_is_not_measured_in_pixels_have_no_limit(catalog: Catalog) -> None:
    without = {
        entry.endpoint.id
        for entry in catalog
        if any(recipe.largest is None for recipe in entry.endpoint.recipes)
    }
    assert without == {"fal-ai/stable-audio", "fal-ai/ace-step", "fal-ai/esrgan"}


def test_a_recipe_has_the_largest_work_that_its_memory_allows(tmp_path: Path) -> None:
    # 24 GB × 0.97 − 1 GB is 22.28: 12.2 for weights, 10.08 ÷ 1.1 for the work.
    recipe = "{memory_gb: 24, precision: bfloat16}"
    limit = load_catalog(tmp_path, recipe).get("a/b").endpoint.recipes[0].largest
    assert limit is not None
    assert limit.volume == pytest.approx(10.08 / 1.1, abs=0.01)
    assert limit.tile_above == pytest.approx(10.08 / 1.1 / 2, abs=0.01)


def test_what_waits_in_host_memory_leaves_its_room_to_the_work(tmp_path: Path) -> None:
    recipe = "{memory_gb: 24, precision: float8, offload: components, hot: [vae]}"
    limit = load_catalog(tmp_path, recipe).get("a/b").endpoint.recipes[0].largest
    assert limit is not None
    assert limit.volume == pytest.approx((22.28 - 4.0 - 0.2) / 1.1, abs=0.01)
    # The denoiser leaves for decoding.
    assert limit.tile_above == pytest.approx((22.28 - 0.2) / 1.1 / 2, abs=0.01)


@pytest.mark.parametrize(("precision", "weights"), [("float8", 6.2), ("int8-dynamic", 8.2)])
def test_eight_bits_halve_large_components_and_their_products_the_denoiser_alone(
    tmp_path: Path, precision: str, weights: float
) -> None:
    recipe = f"{{memory_gb: 24, precision: {precision}}}"
    limit = load_catalog(tmp_path, recipe).get("a/b").endpoint.recipes[0].largest
    assert limit is not None
    assert limit.volume == pytest.approx((22.28 - weights) / 1.1, abs=0.01)


def test_a_recipe_may_state_its_largest_work(tmp_path: Path) -> None:
    recipe = "{memory_gb: 24, precision: bfloat16, largest: {megapixels: 0.5, frames: 9}}"
    limit = load_catalog(tmp_path, recipe, memory="").get("a/b").endpoint.recipes[0].largest
    assert limit is not None
    assert (limit.megapixels, limit.frames, limit.tile_above) == (0.5, 9, None)


def test_weights_that_do_not_fit_their_class_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"a\.b|recipe for 12 GB needs 12\.2 GB"):
        load_catalog(tmp_path, "{memory_gb: 12, precision: bfloat16}")
