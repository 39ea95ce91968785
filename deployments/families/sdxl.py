"""The Stable Diffusion XL family: text to picture, picture to picture, and inpainting."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.adapter_input import AskedAdapter, asked_adapters
from deployments.amendments import amended
from deployments.family import GenerationCall, Made, Product
from deployments.first_input import ONE_STEP
from deployments.picture_call import drawing, picture_facts, redrawing, sides
from deployments.picture_input import as_pixels, from_words_alone
from deployments.picture_output import deliver_pictures, own_dtype
from deployments.picture_size import Size, asked_size, rendered_size, within
from deployments.side_multiple import side_multiple
from deployments.task import IMAGE_TO_IMAGE, INPAINTING, TEXT_TO_IMAGE, task_of
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint

LATENT_CHANNELS = 4

WARM_UP = {
    **ONE_STEP,
    "image_size": "square_hd",
    "guidance_scale": 7.5,
}


class SdxlFamily:
    """Options of its endpoints: ``task`` (text-to-image, image-to-image or inpainting), ``dtype``,
    ``native_size`` (pixels), ``guidance_rescale``, and those of ``amendments``."""

    name = "sdxl"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        # In float16 the pipeline itself decodes in float32 where the autoencoder would overflow.
        pipeline = load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "float16"))
        return amended(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(from_words_alone(endpoint), WARM_UP, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        task = task_of(endpoint, (TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING))
        asked = _size(input, task)
        native = endpoint.options.get("native_size")
        rendered = rendered_size(asked, side_multiple(pipeline), native)
        arguments = {
            **drawing(input, seed),
            # None where none is given: these models were trained with zeros in its place.
            "negative_prompt": input.get("negative_prompt") or None,
            "guidance_scale": float(input["guidance_scale"]),
            "guidance_rescale": _rescale(endpoint, input),
        }
        facts = picture_facts(input, seed, asked, stretched=task != TEXT_TO_IMAGE)
        if task == TEXT_TO_IMAGE:
            return GenerationCall(arguments | sides(rendered), facts)
        arguments |= redrawing(input, rendered)
        if task == IMAGE_TO_IMAGE:  # takes its size from the picture
            return GenerationCall(arguments, facts, view=_redrawing(pipeline))
        arguments["mask_image"] = as_pixels(input["mask_url"].convert("L"), rendered)
        return GenerationCall(arguments | sides(rendered), facts, view=_inpainting(pipeline))

    def adapters(self, input: Mapping[str, Any]) -> Sequence[AskedAdapter]:
        return asked_adapters(input)

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


def _rescale(endpoint: Endpoint, input: Mapping[str, Any]) -> float:
    """The request's, where the endpoint has the field."""
    return float(input.get("guidance_rescale", endpoint.options.get("guidance_rescale", 0.0)))


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
        own = copy.copy(view.unet)  # shares the weights
        own.register_to_config(in_channels=LATENT_CHANNELS)
        # The same for all calls: those of one module are merged.
        view.unet = vars(pipeline).setdefault("unet_of_latents_alone", own)
    return view
