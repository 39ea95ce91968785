"""Background removal: what is done with the mask of a network.

``test_shipped_apps.py`` runs networks, in the environment of the apps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import darkroom
from darkroom_apps import background, rembg
from darkroom_apps.shared import birefnet, images

RED, BLUE = (220, 20, 20), (20, 20, 220)


class RedNetwork:
    """Finds what is red. Its weights compute at 1024 × 1024 only."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def takes(self, side: int) -> bool:
        return side == 1024

    def mask(self, image: Image.Image, side: int) -> np.ndarray[Any, Any]:
        assert side == 1024
        return np.asarray(image, np.float32)[..., 0].clip(20, 220) / 200 - 0.1


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> background.Background:
    monkeypatch.setattr(birefnet, "Network", RedNetwork)
    remover = background.Background()
    remover.setup()
    return remover


@pytest.fixture
def image(tmp_path: Path) -> darkroom.Image:
    """A red square on blue, whose left edge is a mixture of both."""
    drawn = Image.new("RGB", (64, 48), BLUE)
    drawn.paste(RED, (20, 10, 40, 30))
    drawn.paste((120, 20, 120), (18, 10, 20, 30))
    drawn.save(tmp_path / "square.png")
    return darkroom.Image(tmp_path / "square.png")


def open_image(output: dict[str, Any], name: str = "image") -> Image.Image:
    with Image.open(output[name]["$file"]) as picture:
        picture.load()
        return picture


def test_the_background_becomes_transparent_and_edges_lose_its_colour(
    app: background.Background, image: darkroom.Image
) -> None:
    plain = open_image(darkroom.run(app, image_url=image, refine_foreground=False))
    assert (plain.mode, plain.size) == ("RGBA", (64, 48))
    assert (plain.getpixel((30, 20)), plain.getpixel((2, 2))) == ((*RED, 255), (*BLUE, 0))
    assert plain.getpixel((19, 20)) == (120, 20, 120, 128)
    refined = open_image(darkroom.run(app, image_url=image)).getpixel((19, 20))
    assert isinstance(refined, tuple)
    red, _, blue, alpha = refined
    assert red > 190
    assert blue < 50
    assert alpha == 128


def test_the_mask_is_returned_beside_the_image_or_alone(
    app: background.Background, image: darkroom.Image
) -> None:
    assert darkroom.run(app, image_url=image)["mask_image"] is None
    output = darkroom.run(app, image_url=image, output_mask=True, output_format="webp")
    assert output["image"]["media_type"] == "image/webp"
    assert open_image(output, "mask_image").getpixel((30, 20)) == 255
    alone = open_image(darkroom.run(app, "/v2", image_url=image, mask_only=True))
    assert (alone.mode, alone.getpixel((2, 2)), alone.getpixel((30, 20))) == ("L", 0, 255)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"model": "Matting"}, "No weights are known for Matting"),
        ({"operating_resolution": "2048x2048"}, "cannot compute at 2048x2048"),
    ],
)
def test_what_the_weights_cannot_do_is_refused_with_its_field(
    app: background.Background, image: darkroom.Image, arguments: dict[str, str], text: str
) -> None:
    with pytest.raises(darkroom.InvalidField, match=text) as caught:
        darkroom.run(app, "/v2", image_url=image, **arguments)
    assert [caught.value.field] == list(arguments)


def test_weights_are_loaded_once_and_settings_add_others(
    app: background.Background, image: darkroom.Image
) -> None:
    darkroom.run(app, image_url=image, model="General Use (Heavy)")
    assert list(app.networks) == [birefnet.GENERAL]
    app.weights["Matting"] = "/models/matting.onnx"
    darkroom.run(app, "/v2", image_url=image, model="Matting")
    assert list(app.networks) == [birefnet.GENERAL, "/models/matting.onnx"]


def test_what_is_empty_is_cut_off_unless_all_is(
    monkeypatch: pytest.MonkeyPatch, image: darkroom.Image, tmp_path: Path
) -> None:
    monkeypatch.setattr(birefnet, "Network", RedNetwork)
    app = rembg.Rembg()
    app.setup()
    cropped = open_image(darkroom.run(app, image_url=image, crop_to_bbox=True))
    assert (cropped.mode, cropped.size) == ("RGBA", (22, 20))
    assert open_image(darkroom.run(app, image_url=image)).size == (64, 48)
    Image.new("RGB", (9, 9), BLUE).save(tmp_path / "blue.png")
    blue = darkroom.Image(tmp_path / "blue.png")
    assert open_image(darkroom.run(app, image_url=blue, crop_to_bbox=True)).size == (9, 9)


def test_weights_are_a_file_a_folder_or_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert birefnet.file_of("/models/a.onnx") == Path("/models/a.onnx")
    assert birefnet.file_of(str(tmp_path)) == tmp_path / "onnx" / "model.onnx"
    fetched = "huggingface_hub.hf_hub_download"
    monkeypatch.setattr(fetched, lambda repository, file: f"/hub/{repository}/{file}")
    assert birefnet.file_of("a/b") == Path("/hub/a/b/onnx/model.onnx")


def test_an_image_of_one_colour_stays_as_it_is() -> None:
    image = Image.new("RGB", (20, 10), RED)
    cut = birefnet.cut_out(image.copy(), np.full((10, 20), 0.4, np.float32), refine=True)
    assert np.abs(np.array(cut)[..., :3] - np.array(RED, float)).max() <= 1
    assert images.grey(np.full((1, 1), 0.4)).getpixel((0, 0)) == cut.getpixel((3, 3))[3]
