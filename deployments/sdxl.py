"""The Stable Diffusion XL family: text to picture, picture to picture, and inpainting."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.family import GenerationCall, Made, Product
from deployments.picture_input import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    TEXT_TO_IMAGE,
    as_pixels,
    from_words_alone,
    strength_of,
    task_of,
)
from deployments.picture_output import deliver_pictures, generators, own_dtype, seed_of
from deployments.picture_size import Size, asked_size, rendered_size, within
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint

LATENT_CHANNELS = 4
CHECKED_MULTIPLE = 8
"""The pipeline refuses sides in pixels that are no multiple of this, whatever its autoencoder."""

WARM_UP = {
    "prompt": "a lighthouse",
    "image_size": "square_hd",
    "num_inference_steps": 1,
    "guidance_scale": 7.5,
}


class SdxlFamily:
    """Options of its endpoints: ``task`` (text-to-image, image-to-image or inpainting), ``dtype``,
    ``native_size`` (pixels), ``guidance_rescale``."""

    name = "sdxl"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        # In float16 the pipeline itself decodes in float32 where the autoencoder would overflow.
        return load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "float16"))

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(from_words_alone(endpoint), WARM_UP, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        task = task_of(endpoint, (TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING))
        asked = _size(input, task)
        rendered = rendered_size(asked, _multiple(pipeline), endpoint.options.get("native_size"))
        seed = seed_of(input, seed)
        count, steps = int(input.get("num_images") or 1), int(input["num_inference_steps"])
        arguments = {
            "prompt": input["prompt"],
            # None where none is given: these models were trained with zeros in its place.
            "negative_prompt": input.get("negative_prompt") or None,
            "num_inference_steps": steps,
            "guidance_scale": float(input["guidance_scale"]),
            "guidance_rescale": float(endpoint.options.get("guidance_rescale", 0.0)),
            "num_images_per_prompt": count,
            "generator": generators(seed, count),
            "output_type": "pt",
        }
        facts = {"seed": seed, "size": asked, "prompt": input["prompt"]}
        sides = {"width": rendered.width, "height": rendered.height}
        if task == TEXT_TO_IMAGE:
            return GenerationCall(arguments | sides, facts)
        arguments["image"] = as_pixels(input["image_url"], rendered)
        arguments["strength"] = strength_of(input, steps)
        facts["stretched"] = True
        if task == IMAGE_TO_IMAGE:  # takes its size from the picture
            return GenerationCall(arguments, facts, view=_redrawing(pipeline))
        arguments["mask_image"] = as_pixels(input["mask_url"].convert("L"), rendered)
        return GenerationCall(arguments | sides, facts, view=_inpainting(pipeline))

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_pictures(endpoint, call, made, tickets)


def _size(input: Mapping[str, Any], task: str) -> Size:
    """What to deliver."""
    asked = asked_size(input["image_size"])
    keeps_shape = input.get("preserve_aspect_ratio") or input.get("crop_output")
    if task == IMAGE_TO_IMAGE and keeps_shape:
        return within(Size(*input["image_url"].size), asked)
    return asked


def _redrawing(pipeline: Any) -> Any:
    from diffusers import StableDiffusionXLImg2ImgPipeline  # noqa: PLC0415

    from deployments.engine.views import view_of  # noqa: PLC0415

    return view_of(pipeline, StableDiffusionXLImg2ImgPipeline)


def _inpainting(pipeline: Any) -> Any:
    from diffusers import StableDiffusionXLInpaintPipeline  # noqa: PLC0415

    from deployments.engine.views import view_of  # noqa: PLC0415

    view = view_of(pipeline, StableDiffusionXLInpaintPipeline)
    channels = view.unet.config["in_channels"]
    if channels == view.vae.config["latent_channels"] != LATENT_CHANNELS:
        # The pipeline tells a UNet that takes latents alone by their number in SDXL.
        view.unet = copy.copy(view.unet)  # shares the weights
        view.unet.register_to_config(in_channels=LATENT_CHANNELS)
    return view


def _multiple(pipeline: Any) -> int:
    """Pixels of a side that the UNet halves evenly, all the way down."""
    halvings = len(pipeline.unet.config["block_out_channels"]) - 1
    return math.lcm(CHECKED_MULTIPLE, int(pipeline.vae_scale_factor) * 2**halvings)
