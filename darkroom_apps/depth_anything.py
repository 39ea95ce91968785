"""Depth of images with one field, by Depth Anything V2 Small (Apache-2.0).

``settings.json`` may name other weights for depth, by id of the hub or folder:
``{"model": "/models/depth-anything-v2"}``.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared.depths import Depths


class Input(BaseModel):
    """Input of fal-ai/image-preprocessors/depth-anything/v2."""

    image_url: darkroom.Image = Field(description="Image whose depth is estimated.")


class Output(BaseModel):
    image: darkroom.Image = Field(description="Bright is near.")


class DepthAnything(darkroom.App):
    name = "fal-ai/image-preprocessors/depth-anything/v2"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        self.depths = Depths(self.settings)

    @darkroom.endpoint("/")
    def estimate(self, fields: Input) -> Output:
        """Estimate how far away what an image shows is."""
        return Output(image=self.depths.of(fields.image_url))
