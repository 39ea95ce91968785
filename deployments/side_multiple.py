"""Of how many pixels sides have to be a multiple, as a pipeline's parts tell it."""

from __future__ import annotations

import math
from typing import Any

UNET_PIPELINES_CHECK = 8
"""They refuse sides that are no multiple of this, whatever their autoencoder."""


def side_multiple(pipeline: Any) -> int:
    """What the pipeline checks, and what its denoiser cuts or halves evenly all the way down."""
    latent = _compression(pipeline)
    unet = getattr(pipeline, "unet", None)
    if unet is not None:
        halvings = len(unet.config["block_out_channels"]) - 1
        return math.lcm(UNET_PIPELINES_CHECK, latent * 2**halvings)
    return math.lcm(_checked(pipeline) or latent, latent * _patch(pipeline))


def _compression(pipeline: Any) -> int:
    """Pixels of a latent's side, by the names that pipelines have for it."""
    for name in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio"):
        if told := getattr(pipeline, name, None):
            return int(told)
    return 8


def _checked(pipeline: Any) -> int:
    """Pipelines that pack their latents tell it to what prepares pictures for them."""
    processor = getattr(pipeline, "image_processor", None)
    return int(getattr(getattr(processor, "config", None), "vae_scale_factor", 0))


def _patch(pipeline: Any) -> int:
    """Latents of a token's side."""
    config = getattr(getattr(pipeline, "transformer", None), "config", {})
    patch = config.get("patch_size", 1)
    if isinstance(patch, list | tuple) and patch:  # of frames, height and width
        patch = patch[-1]
    return patch if isinstance(patch, int) else 1
