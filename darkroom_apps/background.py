"""Background removal, by BiRefNet (MIT).

``settings.json`` may name weights of the same kind for a model, by id of the hub, folder, or file:
``{"Matting": "/models/birefnet-matting.onnx"}``. A repository or folder has ``onnx/model.onnx``.

It runs on the CPU. For a GPU, deploy it from a copy of this folder in which its requirements have
``onnxruntime-gpu[cuda,cudnn]``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

import darkroom
from darkroom_apps.shared import birefnet, images

Model = Literal["General Use (Light)", "General Use (Heavy)", "Portrait"]
ModelV2 = Literal[
    "General Use (Light)",
    "General Use (Light 2K)",
    "General Use (Heavy)",
    "Matting",
    "Portrait",
    "General Use (Dynamic)",
]

LIGHT = "General Use (Light)"
WEIGHTS = {
    LIGHT: birefnet.GENERAL,
    "General Use (Heavy)": birefnet.GENERAL,  # the largest of those that are there
    "Portrait": "onnx-community/BiRefNet-portrait-ONNX",
}


class Input(BaseModel):
    """Input of fal-ai/birefnet."""

    image_url: darkroom.Image = Field(description="Image whose background is removed.")
    model: Model = Field(
        LIGHT, description="Weights. `Portrait` is for people; the others are the same here."
    )
    operating_resolution: Literal["1024x1024", "2048x2048"] = Field(
        "1024x1024", description="Size at which the mask is computed, if the weights can."
    )
    output_format: Literal["webp", "png", "gif"] = Field(
        "png", description="Format of the image. GIF knows no half transparent pixels."
    )
    output_mask: bool = Field(default=False, description="Return the mask too.")
    refine_foreground: bool = Field(
        default=True, description="Take the background's colour out of edges, such as hair."
    )
    sync_mode: bool = Field(default=False, description="Return data URIs instead of URLs.")


class InputV2(Input):
    """Input of fal-ai/birefnet/v2."""

    model: ModelV2 = Field(  # pyrefly: ignore[bad-override]
        LIGHT, description="Weights. Some kinds have none until `settings.json` names them."
    )
    operating_resolution: Literal[  # pyrefly: ignore[bad-override]
        "1024x1024", "2048x2048", "2304x2304"
    ] = Field("1024x1024", description="Size at which the mask is computed, if the weights can.")
    mask_only: bool = Field(default=False, description="Return the mask as `image`, not refined.")


class Output(BaseModel):
    image: darkroom.Image
    mask_image: darkroom.Image | None = None


class Background(darkroom.App):
    name = "fal-ai/birefnet"
    requirements = ("huggingface-hub>=1", "numpy", "onnxruntime>=1.20", "pillow>=11", "scipy")
    start_timeout_s = 1800.0  # the first start fetches weights

    def setup(self) -> None:
        self.weights = WEIGHTS | self.settings
        self.networks: dict[str, birefnet.Network] = {}
        self.network(LIGHT)

    def network(self, model: str) -> birefnet.Network:
        """Network of a model, loaded when it is first needed."""
        if model not in self.weights:
            raise darkroom.InvalidField(
                "model",
                f"No weights are known for {model}. The app has {', '.join(self.weights)}; its "
                "settings.json may name others",
            )
        weights = self.weights[model]
        if weights not in self.networks:
            self.networks[weights] = birefnet.Network(weights)
        return self.networks[weights]

    @darkroom.endpoint("/")
    def remove(self, fields: Input) -> Output:
        """Remove the background of an image."""
        return self.remove_background(fields, mask_only=False)

    @darkroom.endpoint("/v2")
    def remove_v2(self, fields: InputV2) -> Output:
        """Remove the background of an image."""
        return self.remove_background(fields, mask_only=fields.mask_only)

    def remove_background(self, fields: Input, *, mask_only: bool) -> Output:
        image = fields.image_url.open(most_pixels=images.MAX_PIXELS)
        network = self.network(fields.model)
        side = int(fields.operating_resolution.partition("x")[0])
        if not network.takes(side):
            raise darkroom.InvalidField(
                "operating_resolution",
                f"The weights of {fields.model} cannot compute at {fields.operating_resolution}",
            )
        darkroom.progress(1, 5)
        mask = network.mask(image, side)
        darkroom.progress(2, 5)
        shown: Any = images.grey(mask)
        if not mask_only:
            shown = birefnet.cut_out(image, mask, refine=fields.refine_foreground)
        return Output(
            image=images.to_file(shown, fields.output_format),
            mask_image=images.to_file(images.grey(mask), "png") if fields.output_mask else None,
        )
