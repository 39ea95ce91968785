"""Upscaler for photographs and drawings, by Real-ESRGAN (BSD-3-Clause).

``settings.json`` may name weights for a model: a file, or the id of a repository of the hub with a
file in it: ``{"RealESRGAN_x2plus": "/models/RealESRGAN_x2plus.pth"}``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared import images, tiles

if TYPE_CHECKING:
    from darkroom_apps.shared.rrdb import Network

Model = Literal[
    "RealESRGAN_x4plus",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus_anime_6B",
    "RealESRGAN_x4_v3",
    "RealESRGAN_x4_wdn_v3",
    "RealESRGAN_x4_anime_v3",
]

DEFAULT: Model = "RealESRGAN_x4plus"
WEIGHTS = {DEFAULT: "Comfy-Org/Real-ESRGAN_repackaged/RealESRGAN_x4plus.safetensors"}
MAX_OUTPUT_PIXELS = 64_000_000
LEAST_TILE = 64


class Input(BaseModel):
    """Input of fal-ai/esrgan."""

    image_url: darkroom.Image = Field(description="Image to upscale.")
    scale: float = Field(2, ge=1, le=8, description="Factor of both sides.")
    tile: int = Field(0, ge=0, description="Side of the tiles in pixels; 0: as it is quick.")
    face: bool = Field(default=False, description="Not possible: faces are not restored.")
    model: Model = Field(
        DEFAULT, description="Weights. Most have none until `settings.json` names them."
    )
    output_format: Literal["png", "jpeg"] = Field("png", description="Format of the image.")


class Output(BaseModel):
    image: darkroom.Image


class Esrgan(darkroom.App):
    name = "fal-ai/esrgan"
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        import torch

        self.weights: dict[str, str] = {**WEIGHTS, **self.settings}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.networks: dict[str, Network] = {}
        self.network(DEFAULT)

    def network(self, model: str) -> Network:
        """Network of a model, loaded when it is first needed."""
        from darkroom_apps.shared.rrdb import load

        if model not in self.weights:
            raise darkroom.InvalidField(
                "model",
                f"No weights are known for {model}. The app has {', '.join(self.weights)}; its "
                "settings.json may name others",
            )
        if model not in self.networks:
            self.networks[model] = load(file_of(self.weights[model])).to(self.device)
        return self.networks[model]

    @darkroom.endpoint("/")
    def upscale(self, fields: Input) -> Output:
        """Upscale an image."""
        from PIL import Image

        if fields.face:
            raise darkroom.InvalidField("face", "Faces are not restored here")
        image = fields.image_url.open(most_pixels=images.MAX_PIXELS)
        network = self.network(fields.model)
        factor = max(fields.scale, network.scale)  # what the network makes is scaled down
        if image.width * image.height * factor**2 > MAX_OUTPUT_PIXELS:
            raise darkroom.InvalidField(
                "image_url",
                f"The image has {image.width}×{image.height} pixels; times {factor:g} a side, at "
                f"most {MAX_OUTPUT_PIXELS // 1_000_000} megapixels are possible",
            )
        side = min(max(fields.tile, LEAST_TILE), tiles.SIDE) if fields.tile else tiles.SIDE
        enlarged = tiles.enlarged_image(
            image, network.scale, lambda tile: network(tile.to(self.device)), side
        )
        size = round(image.width * fields.scale), round(image.height * fields.scale)
        if enlarged.size != size:
            enlarged = enlarged.resize(size, Image.Resampling.LANCZOS)
        return Output(image=images.to_file(enlarged, fields.output_format))


def file_of(weights: str) -> Path:
    """The file with weights, which is downloaded if it must be."""
    path = Path(weights)
    if path.is_absolute() or path.is_file():
        return path
    from huggingface_hub import hf_hub_download

    owner, name, file = weights.split("/", 2)
    return Path(hf_hub_download(f"{owner}/{name}", file))
