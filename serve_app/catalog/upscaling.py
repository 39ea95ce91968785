"""Enlarging a picture with Real-ESRGAN."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from serve_app.catalog.fields import ImageInput, PictureUrl
from serve_app.catalog.outputs import PictureOutput
from serve_app.catalog.pydantic_schema import Shape

Model = Literal[
    "RealESRGAN_x4plus",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus_anime_6B",
    "RealESRGAN_x4_v3",
    "RealESRGAN_x4_wdn_v3",
    "RealESRGAN_x4_anime_v3",
]


class UpscalingInput(ImageInput):
    model_config = ConfigDict(title="UpscalingInput")

    image_url: PictureUrl
    scale: float = Field(default=2.0, ge=1, le=8, description="How many times as wide and high.")
    model: Model = Field(default="RealESRGAN_x4plus", description="Which upscaler.")
    tile: int = Field(
        default=0, ge=0, description="Side of a tile in pixels; 0: the picture whole."
    )
    face: bool = Field(default=False, description="Mend faces as well.")
    output_format: Literal["png", "jpeg"] = Field(
        default="png", description="File format of the picture."
    )


UPSCALING = Shape(UpscalingInput, PictureOutput)
