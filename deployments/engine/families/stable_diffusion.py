"""Stable Diffusion 1, 2 and XL, and whoever else has their autoencoder (Flux, Z-Image)."""

from __future__ import annotations

from deployments.engine.declarations import Declaration, ModelFamily

DECLARED: ModelFamily = {
    "AutoencoderKL": Declaration(unused=frozenset({"generator"})),
    "ConsistencyDecoderVAE": Declaration(solo="it draws random numbers"),
}
