"""The Flux family: text to picture, and picture to picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.adapter_input import AskedAdapter, asked_adapters
from deployments.amendments import amended
from deployments.family import GenerationCall, Made, Product
from deployments.first_input import ONE_STEP
from deployments.picture_call import drawing, picture_facts, redrawing, sides
from deployments.picture_input import from_words_alone, given_size
from deployments.picture_output import deliver_pictures, own_dtype
from deployments.picture_size import asked_size, rendered_size
from deployments.side_multiple import side_multiple
from deployments.task import IMAGE_TO_IMAGE, TEXT_TO_IMAGE, task_of
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint

MAX_TEXT_TOKENS = 512

WARM_UP = {
    **ONE_STEP,
    "image_size": "landscape_4_3",
    "guidance_scale": 3.5,
}


class FluxFamily:
    """Options of its endpoints: ``task`` (text-to-image or image-to-image), ``dtype``,
    ``native_size`` (pixels), ``max_sequence_length``, and those of ``amendments``."""

    name = "flux"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        pipeline = load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "bfloat16"))
        return amended(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(from_words_alone(endpoint), WARM_UP, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        redraws = task_of(endpoint, (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)) == IMAGE_TO_IMAGE
        asked = given_size(endpoint, input) if redraws else asked_size(input["image_size"])
        native = endpoint.options.get("native_size")
        rendered = rendered_size(asked, side_multiple(pipeline), native)
        arguments = {
            **drawing(input, seed),
            **sides(rendered),
            "guidance_scale": float(input["guidance_scale"]),
            "max_sequence_length": _text_tokens(endpoint, pipeline),
        }
        facts = picture_facts(input, seed, asked, stretched=redraws)
        if not redraws:
            return GenerationCall(arguments, facts)
        arguments |= redrawing(input, rendered)
        return GenerationCall(arguments, facts, view=_redrawing(pipeline))

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


def _redrawing(pipeline: Any) -> Any:
    from diffusers import FluxImg2ImgPipeline  # noqa: PLC0415

    from deployments.engine.views import view_of  # noqa: PLC0415

    return view_of(pipeline, FluxImg2ImgPipeline)


def _text_tokens(endpoint: Endpoint, pipeline: Any) -> int:
    """Flux masks no padding, so a model has to be given the length that it was trained with."""
    own = int(pipeline.tokenizer_2.model_max_length)
    return int(endpoint.options.get("max_sequence_length") or min(MAX_TEXT_TOKENS, own))
