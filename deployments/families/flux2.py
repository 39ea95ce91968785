"""FLUX.2 [klein] family: redraws an image to a prompt in a few steps. The image is returned inside
the output, as fal's realtime endpoint does with each frame."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.families.base import GenerationCall, GenerationResult, Product, demo_facts
from deployments.families.image_io import (
    Size,
    image_arguments,
    image_facts,
    image_work,
    own_dtypes,
    rendered_size,
    requested_size,
    side_multiple,
    size_arguments,
)
from deployments.families.options import REALTIME, apply_options, task_of
from deployments.families.warm_up import warm_up_input
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

FRAME_TYPE = "image/jpeg"
NO_GUIDANCE = 1.0  # these models are distilled, and diffusers warns about other values


class Flux2Family:
    """Family of FLUX.2 endpoints. Options: ``task`` (realtime), ``dtype``, ``native_size``
    (pixels), and those of ``apply_options``."""

    name = "flux2"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loading.loader import load_pipeline  # noqa: PLC0415

        pipeline = load_pipeline(endpoint.weights, dtype=own_dtypes(endpoint, device, "bfloat16"))
        kind = type(pipeline).__name__
        if kind != "Flux2KleinPipeline":
            raise Misconfigured(
                f"{endpoint.id}: the family {self.name} serves a Flux2KleinPipeline, but "
                f"{endpoint.weights.source} is a {kind}. Use the family `generic` for it."
            )
        return apply_options(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        requested = warm_up_input(endpoint, image_size="square", num_images=1)
        return self.prepare(endpoint, requested, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        from deployments.engine.media.images import fit  # noqa: PLC0415

        task_of(endpoint, (REALTIME,))
        requested = requested_size(endpoint, input)
        native = endpoint.options.get("native_size")
        rendered = rendered_size(requested, side_multiple(pipeline), native)
        arguments: dict[str, Any] = {
            **image_arguments(input, seed),
            **size_arguments(rendered),
            "guidance_scale": NO_GUIDANCE,
            # In the shape of the output, so that every region has its counterpart.
            "image": fit(input["image_url"], rendered.width, rendered.height),
        }
        if input.get("schedule_mu") is not None:
            steps, mu = int(input["num_inference_steps"]), float(input["schedule_mu"])
            token = side_multiple(pipeline)
            tokens = (rendered.width // token) * (rendered.height // token)
            arguments["sigmas"] = shifted_sigmas(mu, steps, tokens, pipeline.scheduler.config)
        facts, work = image_facts(input, seed, requested), image_work(input, rendered)
        return GenerationCall(arguments, facts, work=work)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        _tickets: Sequence[UploadTicket],
    ) -> Product:
        from deployments.engine.media.images import encode, fit, to_images  # noqa: PLC0415

        size: Size = call.output_facts["size"]
        images = [
            fit(picture, size.width, size.height) for picture in to_images(generated.result.images)
        ]
        marked = generated.scratch.marked
        bodies = [encode(image, FRAME_TYPE, marked=marked) for image in images]
        frames = [
            {
                "content": base64.b64encode(body).decode("ascii"),
                "content_type": FRAME_TYPE,
                "width": size.width,
                "height": size.height,
            }
            for body in bodies
        ]
        output: dict[str, Any] = {"images": frames, "seed": call.output_facts["seed"]}
        output |= demo_facts(endpoint, call.output_facts["prompt"])
        return Product(output, units=size.megapixels * len(frames))


def shifted_sigmas(mu: float, steps: int, tokens: int, solver: Mapping[str, Any]) -> list[float]:
    """Noise levels to pass to the pipeline so that it steps through those of the shift ``mu``.

    ``solver`` is the scheduler's configuration. The scheduler shifts the levels it receives once
    more, by an amount that the pipeline computes for an image of ``tokens``. A shift multiplies the
    odds of noise, so the passed levels are divided by that factor.
    """
    odds = math.exp(mu) / _own_odds(steps, tokens, solver)
    levels = [1 - number / steps for number in range(steps)]
    return [odds * level / (odds * level + 1 - level) for level in levels]


def _own_odds(steps: int, tokens: int, solver: Mapping[str, Any]) -> float:
    from diffusers.pipelines.flux2.pipeline_flux2_klein import (  # noqa: PLC0415
        compute_empirical_mu,
    )

    if not solver["use_dynamic_shifting"]:
        return float(solver["shift"])
    mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
    return mu if solver["time_shift_type"] == "linear" else math.exp(mu)
