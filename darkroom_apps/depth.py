"""Depth of images, by Depth Anything V2 Small (Apache-2.0).

``settings.json`` may name other weights for depth, by id of the hub or folder:
``{"model": "Intel/dpt-hybrid-midas"}``.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared.depths import Depths


class Input(BaseModel):
    """Input of fal-ai/imageutils/depth."""

    image_url: darkroom.Image = Field(description="Image whose depth is estimated.")
    a: float = Field(6.283185307179586, description="Without effect: it shapes normals.")
    bg_th: float = Field(0.1, description="Without effect: it shapes normals.")
    depth_and_normal: bool = Field(
        default=False, description="Not possible: normals are not computed."
    )


class Output(BaseModel):
    image: darkroom.Image = Field(description="Bright is near.")


class Depth(darkroom.App):
    name = "fal-ai/imageutils/depth"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        self.depths = Depths(self.settings)

    @darkroom.endpoint("/")
    def estimate(self, fields: Input) -> Output:
        """Estimate how far away what an image shows is."""
        if fields.depth_and_normal:
            raise darkroom.InvalidField("depth_and_normal", "Normals are not computed here")
        return Output(image=self.depths.of(fields.image_url))
