"""Upscaler: images with twice or four times the pixels, by Swin2SR (Apache-2.0).

``settings.json`` may name other weights of the same kind for a task, by id of the hub or folder:
``{"classical_sr": "/models/swin2sr"}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared import images, tiles

if TYPE_CHECKING:
    import torch

Task = Literal["classical_sr", "compressed_sr", "real_sr"]

WEIGHTS: dict[Task, str] = {
    "classical_sr": "caidas/swin2SR-classical-sr-x2-64",
    "compressed_sr": "caidas/swin2SR-compressed-sr-x4-48",
    "real_sr": "caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr",
}


class Input(BaseModel):
    """Input of fal-ai/swin2sr."""

    image_url: darkroom.Image = Field(description="Image to upscale.")
    task: Task = Field(
        "classical_sr",
        description="`classical_sr` doubles the sides of a clean image. `compressed_sr` and "
        "`real_sr` make them four times as long, for JPEG files and for photographs.",
    )
    seed: int | None = Field(None, description="Without effect: equal images give equal results.")


class Output(BaseModel):
    image: darkroom.Image


class Upscaler(darkroom.App):
    name = "fal-ai/swin2sr"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        import torch

        self.weights = WEIGHTS | self.settings
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.models: dict[str, Any] = {}
        self.model("classical_sr")

    def model(self, task: str) -> Any:
        """Model of a task, loaded when it is first needed."""
        if task not in self.models:
            from transformers import Swin2SRForImageSuperResolution

            loaded: Any = Swin2SRForImageSuperResolution.from_pretrained(self.weights[task])
            self.models[task] = loaded.to(self.device).eval()
        return self.models[task]

    @darkroom.endpoint("/")
    def upscale(self, fields: Input) -> Output:
        """Upscale an image."""
        image = fields.image_url.open(most_pixels=images.MAX_PIXELS)
        model = self.model(fields.task)
        config = model.config

        def enlarge(tile: torch.Tensor) -> torch.Tensor:
            return model(pad_to_window(tile, config.window_size).to(self.device)).reconstruction

        large = tiles.enlarged_image(image, int(config.upscale), enlarge)
        return Output(image=darkroom.Image.from_pil(large))


def pad_to_window(pixels: torch.Tensor, window: int) -> torch.Tensor:
    """``pixels`` [1, 3, H, W] with sides that are multiples of ``window``, as the model needs."""
    from torch.nn.functional import pad

    height, width = pixels.shape[-2:]
    return pad(pixels, (0, -width % window, 0, -height % window), mode="replicate")
