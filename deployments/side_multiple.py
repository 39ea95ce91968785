"""Of how many pixels a picture's sides have to be a multiple, as a pipeline's parts tell it."""

from __future__ import annotations

import math
from typing import Any

UNET_PIPELINES_CHECK = 8
"""They refuse sides that are no multiple of this, whatever their autoencoder."""


def side_multiple(pipeline: Any) -> int:
    """What the pipeline checks, and what its denoiser cuts or halves evenly all the way down."""
    latent = int(getattr(pipeline, "vae_scale_factor", None) or 8)  # pixels of a latent's side
    unet = getattr(pipeline, "unet", None)
    if unet is not None:
        halvings = len(unet.config["block_out_channels"]) - 1
        return math.lcm(UNET_PIPELINES_CHECK, latent * 2**halvings)
    return math.lcm(_checked(pipeline) or latent, latent * _patch(pipeline))


def _checked(pipeline: Any) -> int:
    """Pipelines that pack their latents tell it to what prepares pictures for them."""
    processor = getattr(pipeline, "image_processor", None)
    return int(getattr(getattr(processor, "config", None), "vae_scale_factor", 0))


def _patch(pipeline: Any) -> int:
    """Latents of a token's side."""
    config = getattr(getattr(pipeline, "transformer", None), "config", {})
    patch = config.get("patch_size", 1)
    return patch if isinstance(patch, int) else 1
