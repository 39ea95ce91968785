"""Masks of objects, by tiny weights of SAM 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import darkroom
from darkroom_apps import segmenter
from darkroom_apps.shared import segments
from darkroom_apps.shared.segments import FoundMasks, Prompts
from tests.darkroom_apps.setup import with_settings
from tests.darkroom_apps.tiny_models import save_sam2

SIZE = 90, 60


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> segmenter.Segmenter:
    folder = tmp_path_factory.mktemp("sam2")
    save_sam2(folder)
    return with_settings(segmenter.Segmenter, {"model": str(folder)})


@pytest.fixture
def image(tmp_path: Path) -> darkroom.Image:
    Image.effect_noise(SIZE, 80).convert("RGB").save(tmp_path / "noise.png")
    return darkroom.Image(tmp_path / "noise.png")


def open_image(file: dict[str, Any]) -> Image.Image:
    with Image.open(file["$file"]) as picture:
        picture.load()
        return picture


def box(left: float, top: float, right: float, bottom: float, **more: int) -> dict[str, float]:
    return {"x_min": left, "y_min": top, "x_max": right, "y_max": bottom, **more}


def test_a_mask_is_black_and_white_and_may_be_applied(
    app: segmenter.Segmenter, image: darkroom.Image
) -> None:
    prompts = {"prompts": [{"x": 10, "y": 20, "label": "1"}], "box_prompts": [box(0, 0, 50, 50)]}
    mask = open_image(darkroom.run(app, "/image", image_url=image, **prompts)["image"])
    assert (mask.mode, mask.size) == ("L", SIZE)
    assert set(np.unique(np.array(mask)).tolist()) <= {0, 255}
    cut = open_image(
        darkroom.run(app, "/image", image_url=image, apply_mask=True, **prompts)["image"]
    )
    assert cut.mode == "RGBA"
    assert np.array_equal(np.array(cut)[..., 3], np.array(mask))
    output = darkroom.run(
        app, "/image", image_url=image, apply_mask=True, output_format="jpeg", **prompts
    )
    assert output["image"]["media_type"] == "image/jpeg"


def test_prompts_are_sorted_by_their_objects(image: darkroom.Image) -> None:
    request = segmenter.Input(
        image_url=image,
        prompts=[
            segmenter.PointPrompt(x=1, y=2),
            segmenter.PointPrompt(x=3, y=4, label="0", object_id=7),
        ],
        box_prompts=[
            segmenter.BoxPrompt(x_min=0, y_min=1, x_max=2, y_max=3),
            segmenter.BoxPrompt(x_min=4, y_min=5, x_max=6, y_max=7),
        ],
    )
    assert segmenter.by_object(request, *SIZE) == {
        0: Prompts([(1, 2)], [1], (0, 1, 2, 3)),
        1: Prompts(box=(4, 5, 6, 7)),
        7: Prompts([(3, 4)], [0]),
    }


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "prompts"),
        ({"prompts": [{"x": 1, "y": 1}, {"x": 91, "y": 1}]}, "prompts.1"),
        ({"box_prompts": [box(5, 5, 5, 9)]}, "box_prompts.0"),
        ({"box_prompts": [box(0, 0, 9, 61)]}, "box_prompts.0"),
        (
            {"box_prompts": [box(0, 0, 9, 9, object_id=1), box(1, 1, 9, 9, object_id=1)]},
            "box_prompts.1",
        ),
    ],
)
def test_a_prompt_that_cannot_be_followed_is_named(
    app: segmenter.Segmenter, image: darkroom.Image, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(darkroom.InvalidField) as caught:
        darkroom.run(app, "/image", image_url=image, **arguments)
    assert caught.value.field == field


def test_an_automatic_segmentation_returns_the_largest_masks_first(
    app: segmenter.Segmenter, image: darkroom.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.full((3, 32, 32), -8.0)
    logits[0, 4:12, 4:12] = 8.0
    logits[1, 2:30, 2:30] = 8.0
    logits[2, 0, 0] = 8.0
    masks = FoundMasks(logits.half(), SIZE)
    monkeypatch.setattr(segments.SegmentModel, "all_masks", lambda *_: masks)
    output = darkroom.run(app, "/auto-segment", image_url=image, min_mask_region_area=100)
    large, small = [np.array(open_image(mask)) > 0 for mask in output["individual_masks"]]
    assert large.sum() > small.sum() >= 100
    assert (large & small).sum() == small.sum()
    combined = np.array(open_image(output["combined_mask"]))
    assert combined.shape == (60, 90, 3)
    colours = {tuple(colour) for colour in combined.reshape(-1, 3).tolist()}
    assert len(colours) == 3  # one of them black
    assert not combined[0, 0].any()


def test_automatic_masks_keep_the_thresholds(
    app: segmenter.Segmenter, image: darkroom.Image
) -> None:
    options = {"image_url": image, "points_per_side": 4, "min_mask_region_area": 0}
    none = darkroom.run(app, "/auto-segment", pred_iou_thresh=1.0, **options)
    assert none["individual_masks"] == []
    assert not np.array(open_image(none["combined_mask"])).any()
    every = darkroom.run(
        app, "/auto-segment", pred_iou_thresh=0, stability_score_thresh=0, **options
    )
    assert all(open_image(mask).size == SIZE for mask in every["individual_masks"])


def test_boxes_lie_around_masks() -> None:
    logits = torch.full((2, 6, 8), -1.0)
    logits[0, 1:4, 2:7] = 1.0
    assert segments.boxes(logits).tolist() == [[2, 1, 7, 4], [0, 0, 0, 0]]


def test_of_masks_with_like_boxes_the_best_is_kept() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [5, 5, 5, 5.0]])
    assert list(segments.unlike(boxes, torch.tensor([0.5, 0.9, 0.7, 1.0]))) == [1, 2]


def test_a_mask_is_stable_if_a_stricter_one_is_as_large() -> None:
    logits = torch.tensor([[[9.0, 9.0], [-9.0, -9.0]], [[9.0, 0.5], [-0.5, -9.0]]])
    assert segments.stability(logits).tolist() == pytest.approx([1.0, 1 / 3])


def test_places_are_those_of_the_models_square(app: segmenter.Segmenter) -> None:
    image = Image.new("RGB", (64, 256))
    assert app.model.scale_points(image, [32, 64]).tolist() == [[64, 32]]
