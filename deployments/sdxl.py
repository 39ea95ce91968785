"""The Stable Diffusion XL family: text to picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.family import GenerationCall, Made, Product
from deployments.picture_output import deliver_pictures, generators, own_dtype, seed_of
from deployments.picture_size import asked_size, rendered_size
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint

CHECKED_MULTIPLE = 8
"""The pipeline refuses sides in pixels that are no multiple of this, whatever its autoencoder."""


class SdxlFamily:
    """Options of its endpoints: ``dtype``, ``native_size`` (pixels), ``guidance_rescale``."""

    name = "sdxl"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        # In float16 the pipeline itself decodes in float32 where the autoencoder would overflow.
        return load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "float16"))

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        asked = asked_size(input["image_size"])
        rendered = rendered_size(asked, _multiple(pipeline), endpoint.options.get("native_size"))
        seed = seed_of(input, seed)
        count = int(input.get("num_images") or 1)
        arguments = {
            "prompt": input["prompt"],
            # None where none is given: these models were trained with zeros in its place.
            "negative_prompt": input.get("negative_prompt") or None,
            "width": rendered.width,
            "height": rendered.height,
            "num_inference_steps": int(input["num_inference_steps"]),
            "guidance_scale": float(input["guidance_scale"]),
            "guidance_rescale": float(endpoint.options.get("guidance_rescale", 0.0)),
            "num_images_per_prompt": count,
            "generator": generators(seed, count),
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


def _multiple(pipeline: Any) -> int:
    """Pixels of a side that the UNet halves evenly, all the way down."""
    halvings = len(pipeline.unet.config["block_out_channels"]) - 1
    return math.lcm(CHECKED_MULTIPLE, int(pipeline.vae_scale_factor) * 2**halvings)
