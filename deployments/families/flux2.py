"""The FLUX.2 [klein] family: a picture redrawn to a prompt in a few steps, and handed back inside
the output, as fal's realtime endpoint does with each frame."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.amendments import amended
from deployments.family import GenerationCall, Made, Product
from deployments.first_input import first_input
from deployments.picture_call import drawing, picture_facts, sides
from deployments.picture_output import own_dtype
from deployments.picture_size import Size, asked_size, rendered_size
from deployments.side_multiple import side_multiple
from deployments.task import REALTIME, task_of
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

FRAME_TYPE = "image/jpeg"
NO_GUIDANCE = 1.0  # these models are distilled, and warn of any other


class Flux2Family:
    """Options of its endpoints: ``task`` (realtime), ``dtype``, ``native_size`` (pixels), and those
    of ``amendments``."""

    name = "flux2"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        from deployments.engine.loader import load_pipeline  # noqa: PLC0415

        pipeline = load_pipeline(endpoint.weights, dtype=own_dtype(endpoint, device, "bfloat16"))
        kind = type(pipeline).__name__
        if kind != "Flux2KleinPipeline":
            raise Misconfigured(
                f"{endpoint.id}: the family {self.name} serves a Flux2KleinPipeline, and "
                f"{endpoint.weights.source} is a {kind}. The family `generic` serves others."
            )
        return amended(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        asked = first_input(endpoint, image_size="square", num_images=1)
        return self.prepare(endpoint, asked, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        from deployments.engine.media import fit  # noqa: PLC0415

        task_of(endpoint, (REALTIME,))
        asked = asked_size(input["image_size"])
        native = endpoint.options.get("native_size")
        rendered = rendered_size(asked, side_multiple(pipeline), native)
        arguments: dict[str, Any] = {
            **drawing(input, seed),
            **sides(rendered),
            "guidance_scale": NO_GUIDANCE,
            # In the shape of what is drawn, so that every part has its counterpart.
            "image": fit(input["image_url"], rendered.width, rendered.height),
        }
        if input.get("schedule_mu") is not None:
            steps, mu = int(input["num_inference_steps"]), float(input["schedule_mu"])
            token = side_multiple(pipeline)
            tokens = (rendered.width // token) * (rendered.height // token)
            arguments["sigmas"] = shifted_sigmas(mu, steps, tokens, pipeline.scheduler.config)
        return GenerationCall(arguments, picture_facts(input, seed, asked))

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        _tickets: Sequence[UploadTicket],
    ) -> Product:
        from deployments.engine.media import encode, fit, to_pictures  # noqa: PLC0415

        size: Size = call.facts["size"]
        pictures = [fit(each, size.width, size.height) for each in to_pictures(made.result.images)]
        frames = [
            {
                "content": base64.b64encode(encode(picture, FRAME_TYPE)).decode("ascii"),
                "content_type": FRAME_TYPE,
                "width": size.width,
                "height": size.height,
            }
            for picture in pictures
        ]
        output: dict[str, Any] = {"images": frames, "seed": call.facts["seed"]}
        if endpoint.weights.demo:
            output["darkroom_demo"] = True
        return Product(output, units=size.megapixels * len(frames))


def shifted_sigmas(mu: float, steps: int, tokens: int, solver: Mapping[str, Any]) -> list[float]:
    """The noise levels to hand the pipeline so that it steps through those of the shift ``mu``.

    ``solver``: its configuration. The solver shifts what it is given once more, for a picture of
    ``tokens`` by a number of the pipeline's choosing. A shift multiplies the odds of noise, so what
    is handed over lacks that factor.
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
