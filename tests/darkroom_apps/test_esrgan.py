"""Upscaling by tiny weights of Real-ESRGAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import darkroom
from darkroom_apps import esrgan
from darkroom_apps.shared import rrdb, tiles
from tests.darkroom_apps.setup import with_settings
from tests.darkroom_apps.tiny_models import ESRGAN, save_esrgan


@pytest.fixture
def app(tmp_path: Path) -> esrgan.Esrgan:
    save_esrgan(tmp_path)
    return with_settings(esrgan.Esrgan, {esrgan.DEFAULT: str(tmp_path / ESRGAN)})


@pytest.fixture
def image(tmp_path: Path) -> darkroom.Image:
    Image.effect_noise((90, 61), 80).convert("RGB").save(tmp_path / "noise.png")
    return darkroom.Image(tmp_path / "noise.png")


@pytest.mark.parametrize(
    ("arguments", "size", "media_type"),
    [
        ({}, (180, 122), "image/png"),
        ({"scale": 4, "tile": 1}, (360, 244), "image/png"),
        ({"scale": 1.5, "output_format": "jpeg"}, (135, 92), "image/jpeg"),
    ],
)
def test_an_image_gets_the_scale_and_format_that_are_asked_for(
    app: esrgan.Esrgan,
    image: darkroom.Image,
    arguments: dict[str, Any],
    size: tuple[int, int],
    media_type: str,
) -> None:
    upscaled = darkroom.run(app, image_url=image, **arguments)["image"]
    assert upscaled["media_type"] == media_type
    with Image.open(upscaled["$file"]) as large:
        assert large.size == size


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"face": True}, "face"),
        ({"model": "RealESRGAN_x4_v3"}, "model"),
        ({"scale": 8}, "image_url"),
    ],
)
def test_what_the_app_cannot_do_is_refused_with_its_field(
    app: esrgan.Esrgan,
    image: darkroom.Image,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    field: str,
) -> None:
    monkeypatch.setattr(esrgan, "MAX_OUTPUT_PIXELS", 90 * 61 * 63)
    with pytest.raises(darkroom.InvalidField) as caught:
        darkroom.run(app, image_url=image, **arguments)
    assert caught.value.field == field


def test_weights_of_the_authors_files_say_how_large_the_network_is(tmp_path: Path) -> None:
    original = rrdb.Network(8, 4, 3, fold=2)
    torch.save({"params_ema": original.state_dict()}, tmp_path / "x2.pth")
    network = rrdb.load(tmp_path / "x2.pth")
    assert (network.scale, len(network.body)) == (2, 3)
    pixels = torch.rand(1, 3, 7, 9)
    with torch.inference_mode():
        assert torch.equal(network(pixels), original.eval()(pixels))
    assert tiles.enlarge(pixels[0], 2, network.requires_grad_(False), 4).shape == (3, 14, 18)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"conv_first.weight": torch.zeros(1, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(darkroom.AppError, match=r"other\.pth has no weights"):
        rrdb.load(tmp_path / "other.pth")


def test_weights_are_a_file_or_a_file_of_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    assert esrgan.file_of("/models/a.pth") == Path("/models/a.pth")
    fetched = "huggingface_hub.hf_hub_download"
    monkeypatch.setattr(fetched, lambda repository, file: f"/hub/{repository}/{file}")
    assert esrgan.file_of("a/b/c/d.pth") == Path("/hub/a/b/c/d.pth")
