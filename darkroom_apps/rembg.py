"""Background removal with few fields, by BiRefNet (MIT).

``settings.json`` may name other weights of the same kind, by id of the hub, folder, or file:
``{"model": "onnx-community/BiRefNet_lite-ONNX"}``. A repository or folder has ``onnx/model.onnx``.

It runs on the CPU. For a GPU, deploy it from a copy of this folder in which its requirements have
``onnxruntime-gpu[cuda,cudnn]``.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared import birefnet, images

SIDE = 1024  # pixels at which the mask is computed
FAINT = 8  # of 255: less opacity than this is empty


class Input(BaseModel):
    """Input of fal-ai/imageutils/rembg."""

    image_url: darkroom.Image = Field(description="Image whose background is removed.")
    crop_to_bbox: bool = Field(default=False, description="Cut off what is empty around.")
    sync_mode: bool = Field(default=False, description="Return a data URI instead of a URL.")


class Output(BaseModel):
    image: darkroom.Image


class Rembg(darkroom.App):
    name = "fal-ai/imageutils/rembg"
    requirements = ("huggingface-hub>=1", "numpy", "onnxruntime>=1.20", "pillow>=11", "scipy")
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        self.network = birefnet.Network(self.settings.get("model", birefnet.GENERAL))

    @darkroom.endpoint("/")
    def remove(self, fields: Input) -> Output:
        """Remove the background of an image."""
        image = fields.image_url.open(most_pixels=images.MAX_PIXELS)
        darkroom.progress(1, 5)
        mask = self.network.mask(image, SIDE)
        darkroom.progress(2, 5)
        cut = birefnet.cut_out(image, mask, refine=True)
        seen = [0] * FAINT + [255] * (256 - FAINT)
        box = cut.getchannel("A").point(seen).getbbox() if fields.crop_to_bbox else None
        return Output(image=images.to_file(cut.crop(box) if box else cut, "png"))
