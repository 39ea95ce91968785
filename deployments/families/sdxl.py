"""Stable Diffusion XL family: text-to-image, image-to-image, and inpainting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.families.base import GenerationCall
from deployments.families.image_io import (
    ImageFamily,
    Size,
    as_pixels,
    as_text_to_image,
    fit_within,
    image_arguments,
    image_facts,
    image_to_image_arguments,
    image_work,
    own_dtypes,
    rendered_size,
    requested_size,
    side_multiple,
    size_arguments,
)
from deployments.families.options import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    TEXT_TO_IMAGE,
    apply_options,
    task_of,
)
from deployments.families.warm_up import WARM_UP_DEFAULTS
from serve_app.domain.endpoint import Endpoint

LATENT_CHANNELS = 4

WARM_UP = {
    **WARM_UP_DEFAULTS,
    "image_size": "square_hd",
    "guidance_scale": 7.5,
}


class SdxlFamily(ImageFamily):
    """Family of SDXL endpoints. Options: ``task`` (text-to-image, image-to-image or inpainting),
    ``dtype``, ``native_size`` (pixels), ``guidance_rescale``, ``fixed`` (values that requests do
    not choose, such as ``guidance_scale``), and those of ``apply_options``."""

    name = "sdxl"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loading.loader import load_pipeline  # noqa: PLC0415

        # In float16, the pipeline itself decodes in float32 if the autoencoder would overflow.
        pipeline = load_pipeline(endpoint.weights, dtype=own_dtypes(endpoint, device, "float16"))
        keep_bfloat16(pipeline)
        return apply_options(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(as_text_to_image(endpoint), WARM_UP, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        task = task_of(endpoint, (TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING))
        input = {**input, **endpoint.options.get("fixed", {})}  # noqa: A001
        requested = _size(endpoint, input, task)
        native = endpoint.options.get("native_size")
        rendered = rendered_size(requested, side_multiple(pipeline), native)
        arguments = {
            **image_arguments(input, seed),
            # None if there is none: these models were trained with zeros in its place.
            "negative_prompt": input.get("negative_prompt") or None,
            "guidance_scale": float(input["guidance_scale"]),
            "guidance_rescale": _rescale(endpoint, input),
        }
        facts = image_facts(input, seed, requested, task)
        work = image_work(input, rendered)
        if task == TEXT_TO_IMAGE:
            return GenerationCall(arguments | size_arguments(rendered), facts, work=work)
        arguments |= image_to_image_arguments(input, rendered)
        if task == IMAGE_TO_IMAGE:  # the pipeline takes its size from the image
            return GenerationCall(arguments, facts, view=_redrawing(pipeline), work=work)
        arguments["mask_image"] = as_pixels(input["mask_url"], rendered)
        arguments |= size_arguments(rendered)
        return GenerationCall(arguments, facts, view=_inpainting(pipeline), work=work)


def keep_bfloat16(pipeline: Any) -> None:
    """Let the pipelines leave an autoencoder in bfloat16 as it is.

    It has the range of float32, so it does not overflow as float16 does. With ``force_upcast``,
    image-to-image would convert it to float32 and then to float16, for all requests.
    """
    import torch  # noqa: PLC0415

    if pipeline.vae.dtype is torch.bfloat16:
        pipeline.vae.register_to_config(force_upcast=False)


def _size(endpoint: Endpoint, input: Mapping[str, Any], task: str) -> Size:
    """Size to deliver."""
    requested = requested_size(endpoint, input)
    keeps_shape = input.get("preserve_aspect_ratio") or input.get("crop_output")
    if task == IMAGE_TO_IMAGE and keeps_shape:
        return fit_within(Size(*input["image_url"].size), requested)
    return requested


def _rescale(endpoint: Endpoint, input: Mapping[str, Any]) -> float:
    """Guidance rescale of the request, or the endpoint's default if it lacks the field."""
    return float(input.get("guidance_rescale", endpoint.options.get("guidance_rescale", 0.0)))


def _redrawing(pipeline: Any) -> Any:
    from diffusers import StableDiffusionXLImg2ImgPipeline  # noqa: PLC0415

    from deployments.engine.interception.pipeline import view_of  # noqa: PLC0415

    return view_of(pipeline, StableDiffusionXLImg2ImgPipeline)


def _inpainting(pipeline: Any) -> Any:
    from diffusers import StableDiffusionXLInpaintPipeline  # noqa: PLC0415

    from deployments.engine.interception.pipeline import view_of  # noqa: PLC0415
    from deployments.engine.interception.step_cache_options import with_config  # noqa: PLC0415

    view = view_of(pipeline, StableDiffusionXLInpaintPipeline)
    channels = view.unet.config["in_channels"]
    if channels == view.vae.config["latent_channels"] != LATENT_CHANNELS:
        # The pipeline recognises a UNet without extra channels by SDXL's number of latent channels.
        own = with_config(view.unet, in_channels=LATENT_CHANNELS)
        # One copy for all calls, because only calls of the same module are merged.
        view.unet = vars(pipeline).setdefault("unet_of_latents_alone", own)
    return view
