"""The Flux family: text to picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.family import GenerationCall, Made, MediaFile, Product
from deployments.picture_size import asked_size, rendered_size
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

MAX_TEXT_TOKENS = 512


class FluxFamily:
    """Options of its endpoints: ``dtype``, ``native_size`` (pixels), ``max_sequence_length``."""

    name = "flux"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        own_choice = "float32" if device == "cpu" else "bfloat16"
        return load_pipeline(endpoint.weights, dtype=endpoint.options.get("dtype", own_choice))

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        import torch  # noqa: PLC0415

        asked = asked_size(input["image_size"])
        # Latents are packed two by two, so a side in tokens is this many pixels.
        multiple = pipeline.vae_scale_factor * 2
        rendered = rendered_size(asked, multiple, endpoint.options.get("native_size"))
        given = input.get("seed")
        seed = seed if given is None else int(given)
        count = int(input.get("num_images") or 1)
        arguments = {
            "prompt": input["prompt"],
            "width": rendered.width,
            "height": rendered.height,
            "num_inference_steps": int(input["num_inference_steps"]),
            "guidance_scale": float(input["guidance_scale"]),
            "num_images_per_prompt": count,
            # One generator per picture: the first of four is the one that is made alone.
            "generator": [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)],
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
        from deployments.engine.media import encode, fit, to_pictures  # noqa: PLC0415

        pictures = to_pictures(made.result.images)
        if len(tickets) < len(pictures):
            raise Misconfigured(
                f"{len(pictures)} pictures were made, but the lease came with {len(tickets)} "
                "tickets."
            )
        size = call.facts["size"]
        files = [
            MediaFile(
                ticket=ticket,
                body=encode(fit(picture, size.width, size.height), ticket.media_type),
                width=size.width,
                height=size.height,
            )
            for picture, ticket in zip(pictures, tickets, strict=False)
        ]
        output: dict[str, Any] = {
            "images": [_image(file) for file in files],
            "timings": {"inference": round(made.inference_s, 4)},
            "seed": call.facts["seed"],
            "has_nsfw_concepts": [False] * len(files),
            "prompt": call.facts["prompt"],
        }
        if endpoint.weights.demo:
            output["darkroom_demo"] = True
        return Product(output, files, units=size.megapixels * len(files))


def _text_tokens(endpoint: Endpoint, pipeline: Any) -> int:
    """Flux masks no padding, so a model has to be given the length that it was trained with."""
    own = int(pipeline.tokenizer_2.model_max_length)
    return int(endpoint.options.get("max_sequence_length") or min(MAX_TEXT_TOKENS, own))


def _image(file: MediaFile) -> dict[str, Any]:
    return {
        "artifact": file.ticket.key,
        "width": file.width,
        "height": file.height,
        "content_type": file.ticket.media_type,
        "file_size": len(file.body),
    }
