"""Flux family: text-to-image and image-to-image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.families.base import GenerationCall
from deployments.families.image_io import (
    ImageFamily,
    as_text_to_image,
    image_arguments,
    image_facts,
    image_size,
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
    TEXT_TO_IMAGE,
    apply_options,
    task_of,
)
from deployments.families.warm_up import WARM_UP_DEFAULTS
from serve_app.domain.endpoint import Endpoint

MAX_TEXT_TOKENS = 512

WARM_UP = {
    **WARM_UP_DEFAULTS,
    "image_size": "landscape_4_3",
    "guidance_scale": 3.5,
}


class FluxFamily(ImageFamily):
    """Family of Flux endpoints. Options: ``task`` (text-to-image or image-to-image), ``dtype``,
    ``native_size`` (pixels), ``max_sequence_length``, and those of ``apply_options``."""

    name = "flux"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loading.loader import load_pipeline  # noqa: PLC0415

        pipeline = load_pipeline(endpoint.weights, dtype=own_dtypes(endpoint, device, "bfloat16"))
        return apply_options(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(as_text_to_image(endpoint), WARM_UP, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        task = task_of(endpoint, (TEXT_TO_IMAGE, IMAGE_TO_IMAGE))
        has_input_image = task == IMAGE_TO_IMAGE
        requested = (
            image_size(endpoint, input["image_url"])
            if has_input_image
            else requested_size(endpoint, input)
        )
        native = endpoint.options.get("native_size")
        rendered = rendered_size(requested, side_multiple(pipeline), native)
        arguments = {
            **image_arguments(input, seed),
            **size_arguments(rendered),
            "guidance_scale": float(input["guidance_scale"]),
            "max_sequence_length": _text_tokens(endpoint, pipeline),
        }
        facts = image_facts(input, seed, requested, task)
        work = image_work(input, rendered)
        if not has_input_image:
            return GenerationCall(arguments, facts, work=work)
        arguments |= image_to_image_arguments(input, rendered)
        return GenerationCall(arguments, facts, view=_redrawing(pipeline), work=work)


def _redrawing(pipeline: Any) -> Any:
    from diffusers import FluxImg2ImgPipeline  # noqa: PLC0415

    from deployments.engine.interception.pipeline import view_of  # noqa: PLC0415

    return view_of(pipeline, FluxImg2ImgPipeline)


def _text_tokens(endpoint: Endpoint, pipeline: Any) -> int:
    """Text length. Flux masks no padding, so it must be the length the model was trained with."""
    own = int(pipeline.tokenizer_2.model_max_length)
    return min(int(endpoint.options.get("max_sequence_length") or MAX_TEXT_TOKENS), own)
