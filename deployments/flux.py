"""The Flux family: text to picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.family import GenerationCall, Made, Product
from deployments.picture_output import deliver_pictures, generators, own_dtype, seed_of
from deployments.picture_size import asked_size, rendered_size
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint

MAX_TEXT_TOKENS = 512


class FluxFamily:
    """Options of its endpoints: ``dtype``, ``native_size`` (pixels), ``max_sequence_length``."""

    name = "flux"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        return load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "bfloat16"))

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        asked = asked_size(input["image_size"])
        # Latents are packed two by two, so a side in tokens is this many pixels.
        multiple = pipeline.vae_scale_factor * 2
        rendered = rendered_size(asked, multiple, endpoint.options.get("native_size"))
        seed = seed_of(input, seed)
        count = int(input.get("num_images") or 1)
        arguments = {
            "prompt": input["prompt"],
            "width": rendered.width,
            "height": rendered.height,
            "num_inference_steps": int(input["num_inference_steps"]),
            "guidance_scale": float(input["guidance_scale"]),
            "num_images_per_prompt": count,
            "generator": generators(seed, count),
            "max_sequence_length": _text_tokens(endpoint, pipeline),
            "output_type": "pt",
        }
        return GenerationCall(
            arguments, facts={"seed": seed, "size": asked, "prompt": input["prompt"]}
        )

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_pictures(endpoint, call, made, tickets)


def _text_tokens(endpoint: Endpoint, pipeline: Any) -> int:
    """Flux masks no padding, so a model has to be given the length that it was trained with."""
    own = int(pipeline.tokenizer_2.model_max_length)
    return int(endpoint.options.get("max_sequence_length") or min(MAX_TEXT_TOKENS, own))
