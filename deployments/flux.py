"""The Flux family: text to picture, and picture to picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.family import GenerationCall, Made, Product
from deployments.picture_input import (
    IMAGE_TO_IMAGE,
    TEXT_TO_IMAGE,
    as_pixels,
    from_words_alone,
    strength_of,
    task_of,
)
from deployments.picture_output import deliver_pictures, generators, own_dtype, seed_of
from deployments.picture_size import Size, asked_size, at_most, rendered_size
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint

MAX_TEXT_TOKENS = 512
MOST_MEGAPIXELS = 4.2
"""A given picture with more of them is made smaller, unless the endpoint's bounds say otherwise."""

WARM_UP = {
    "prompt": "a lighthouse",
    "image_size": "landscape_4_3",
    "num_inference_steps": 1,
    "guidance_scale": 3.5,
}


class FluxFamily:
    """Options of its endpoints: ``task`` (text-to-image or image-to-image), ``dtype``,
    ``native_size`` (pixels), ``max_sequence_length``."""

    name = "flux"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        return load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "bfloat16"))

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(from_words_alone(endpoint), WARM_UP, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        redraws = task_of(endpoint, (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)) == IMAGE_TO_IMAGE
        asked = _given_size(endpoint, input) if redraws else asked_size(input["image_size"])
        # Latents are packed two by two, so a side in tokens is this many pixels.
        multiple = pipeline.vae_scale_factor * 2
        rendered = rendered_size(asked, multiple, endpoint.options.get("native_size"))
        seed = seed_of(input, seed)
        count, steps = int(input.get("num_images") or 1), int(input["num_inference_steps"])
        arguments = {
            "prompt": input["prompt"],
            "width": rendered.width,
            "height": rendered.height,
            "num_inference_steps": steps,
            "guidance_scale": float(input["guidance_scale"]),
            "num_images_per_prompt": count,
            "generator": generators(seed, count),
            "max_sequence_length": _text_tokens(endpoint, pipeline),
            "output_type": "pt",
        }
        facts = {"seed": seed, "size": asked, "prompt": input["prompt"], "stretched": redraws}
        if not redraws:
            return GenerationCall(arguments, facts)
        arguments["image"] = as_pixels(input["image_url"], rendered)
        arguments["strength"] = strength_of(input, steps)
        return GenerationCall(arguments, facts, view=_redrawing(pipeline))

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_pictures(endpoint, call, made, tickets)


def _given_size(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    """That of the given picture."""
    most = endpoint.bounds.get("megapixels", (0.0, MOST_MEGAPIXELS))[1]
    return at_most(Size(*input["image_url"].size), most)


def _redrawing(pipeline: Any) -> Any:
    from diffusers import FluxImg2ImgPipeline  # noqa: PLC0415

    from deployments.engine.views import view_of  # noqa: PLC0415

    return view_of(pipeline, FluxImg2ImgPipeline)


def _text_tokens(endpoint: Endpoint, pipeline: Any) -> int:
    """Flux masks no padding, so a model has to be given the length that it was trained with."""
    own = int(pipeline.tokenizer_2.model_max_length)
    return int(endpoint.options.get("max_sequence_length") or min(MAX_TEXT_TOKENS, own))
