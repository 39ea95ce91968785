"""Depth of images, by tiny weights of Depth Anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom_apps import depth
from tests.darkroom_apps.setup import with_settings
from tests.darkroom_apps.tiny_models import save_depth_anything


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> depth.Depth:
    folder = tmp_path_factory.mktemp("depth")
    save_depth_anything(folder)
    return with_settings(depth.Depth, {"model": str(folder)})


def image(path: Path, size: tuple[int, int] = (90, 61)) -> darkroom.Image:
    Image.effect_noise(size, 80).convert("RGB").save(path)
    return darkroom.Image(path)


def test_depth_has_the_size_of_the_image_and_all_levels(app: depth.Depth, tmp_path: Path) -> None:
    output = darkroom.run(app, image_url=image(tmp_path / "noise.png"))
    with Image.open(output["image"]["$file"]) as grey:
        assert (grey.mode, grey.size) == ("L", (90, 61))
        levels = np.array(grey)
    assert (levels.min(), levels.max()) == (0, 255)

    # Of metres, the least are nearest, so white.
    app.depths.is_far = True
    try:
        turned = darkroom.run(app, image_url=darkroom.Image(tmp_path / "noise.png"))
    finally:
        app.depths.is_far = False
    with Image.open(turned["image"]["$file"]) as grey:
        assert np.abs(255.0 - np.array(grey) - levels).max() <= 1


def test_what_the_app_cannot_do_is_refused_with_its_field(app: depth.Depth, tmp_path: Path) -> None:
    with pytest.raises(darkroom.InvalidField, match="9×1 pixels") as caught:
        darkroom.run(app, image_url=image(tmp_path / "long.png", (9, 1)))
    assert caught.value.field == "image_url"
    with pytest.raises(darkroom.InvalidField, match="Normals") as caught:
        darkroom.run(app, image_url=image(tmp_path / "noise.png"), depth_and_normal=True)
    assert caught.value.field == "depth_and_normal"
