"""Stable Diffusion 3."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "StableDiffusion3ControlNetPipeline": Declaration(draws_globally=True),
    "StableDiffusion3ControlNetInpaintingPipeline": Declaration(draws_globally=True),
}
