"""Masks of what points and boxes show, and of all that an image shows, by SAM 2.1 (Apache-2.0).

``settings.json`` may name other weights of SAM 2, by id of the hub or folder:
``{"model": "facebook/sam2.1-hiera-tiny"}``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared import images
from darkroom_apps.shared.segments import Prompts, SegmentModel, paint_masks

MODEL = "facebook/sam2.1-hiera-large"
MAX_PROMPTS = 256  # of each kind
MAX_MASKS = 256  # that an automatic segmentation returns

Id = Field(None, description="Number of the object that it shows. One of the same refine it.")
Frame = Field(0, description="Without effect: an image is one frame.")


class PointPrompt(BaseModel):
    x: float
    y: float
    label: Literal[0, 1, "0", "1"] = Field(1, description="1: the object is here; 0: it is not.")
    object_id: int | None = Id
    frame_index: int = Frame


class BoxPrompt(BaseModel):
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    object_id: int | None = Id
    frame_index: int = Frame


class Input(BaseModel):
    """Input of fal-ai/sam2/image."""

    image_url: darkroom.Image = Field(description="Image to segment.")
    prompts: list[PointPrompt] = Field(
        [], max_length=MAX_PROMPTS, description="Points. Those without an object show the first."
    )
    box_prompts: list[BoxPrompt] = Field(
        [],
        max_length=MAX_PROMPTS,
        description="Boxes. Each without an object shows one of its own.",
    )
    apply_mask: bool = Field(
        default=False, description="Return the objects, and nothing around them, not a mask."
    )
    output_format: Literal["jpeg", "png", "webp"] = Field(
        "png", description="Format of the image. JPEG is black where others are transparent."
    )
    sync_mode: bool = Field(default=False, description="Return a data URI instead of a URL.")


class Output(BaseModel):
    image: darkroom.Image = Field(description="White where the objects are, else black.")


class AutomaticInput(BaseModel):
    """Input of fal-ai/sam2/auto-segment."""

    image_url: darkroom.Image = Field(description="Image to segment.")
    points_per_side: int = Field(
        32, ge=1, le=64, description="Points along each side, at which objects are looked for."
    )
    pred_iou_thresh: float = Field(
        0.88, ge=0, le=1, description="Least quality of a mask, as the model estimates it."
    )
    stability_score_thresh: float = Field(
        0.95, ge=0, le=1, description="Least part of a mask that is left of it if it is stricter."
    )
    min_mask_region_area: int = Field(100, ge=0, description="Least pixels of a mask.")
    output_format: Literal["jpeg", "png"] = Field("png", description="Format of the images.")
    sync_mode: bool = Field(default=False, description="Return data URIs instead of URLs.")


class AutomaticOutput(BaseModel):
    combined_mask: darkroom.Image = Field(description="All masks, each with a colour of its own.")
    individual_masks: list[darkroom.Image] = Field(
        description=f"Masks, the largest first; at most {MAX_MASKS}."
    )


class Segmenter(darkroom.App):
    name = "fal-ai/sam2"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        self.model = SegmentModel(self.settings.get("model", MODEL))

    @darkroom.endpoint("/image")
    def segment(self, fields: Input) -> Output:
        """Find the objects that points and boxes show."""
        image = fields.image_url.open(most_pixels=images.MAX_PIXELS)
        mask = self.model.mask(image, list(by_object(fields, *image.size).values()))
        shown: Any = images.grey(mask)
        if fields.apply_mask:
            shown, cut = image, shown
            shown.putalpha(cut)
        return Output(image=images.to_file(shown, fields.output_format))

    @darkroom.endpoint("/auto-segment")
    def segment_all(self, fields: AutomaticInput) -> AutomaticOutput:
        """Find all objects of an image."""
        image = fields.image_url.open(most_pixels=images.MAX_PIXELS)
        least = fields.pred_iou_thresh, fields.stability_score_thresh
        candidates = self.model.all_masks(image, fields.points_per_side, *least)
        masks = candidates.largest(MAX_MASKS, fields.min_mask_region_area)
        return AutomaticOutput(
            combined_mask=images.to_file(paint_masks(masks, image.size), fields.output_format),
            individual_masks=[
                images.to_file(images.grey(mask), fields.output_format) for mask in masks
            ],
        )


def by_object(fields: Input, width: int, height: int) -> dict[int, Prompts]:
    """Prompts by the number of their object. ``InvalidField`` names one that cannot be followed."""
    if not fields.prompts and not fields.box_prompts:
        raise darkroom.InvalidField("prompts", "Name a point here, or a box in box_prompts")
    objects = defaultdict[int, Prompts](Prompts)
    for number, box in enumerate(fields.box_prompts):
        where = f"box_prompts.{number}"
        prompts = objects[number if box.object_id is None else box.object_id]
        if prompts.box is not None:
            raise darkroom.InvalidField(where, "Its object has a box already; one is possible")
        if not (0 <= box.x_min < box.x_max <= width and 0 <= box.y_min < box.y_max <= height):
            raise darkroom.InvalidField(
                where, f"It is no box inside of the image of {width}×{height} pixels"
            )
        prompts.box = box.x_min, box.y_min, box.x_max, box.y_max
    for number, point in enumerate(fields.prompts):
        if not (0 <= point.x <= width and 0 <= point.y <= height):
            raise darkroom.InvalidField(
                f"prompts.{number}", f"It is outside of the image of {width}×{height} pixels"
            )
        prompts = objects[0 if point.object_id is None else point.object_id]
        prompts.points.append((point.x, point.y))
        prompts.labels.append(int(point.label))
    return objects
