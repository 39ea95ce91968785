"""How much an autoencoder computes of what it decodes in tiles that lap over each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def decoded_of(vae: Any, shape: Sequence[int]) -> int:
    """Latents of one channel, each as often as ``vae`` takes it. ``shape``: [batch, channels, …],
    of a clip (frames, height, width) or a sound. Of tiles that are not known, each once."""
    if len(shape) == 3:
        return _of_sound(vae, shape[2])
    frames, height, width = shape[2:]
    if (side := getattr(vae, "spatial_compression_ratio", None)) is None:
        return frames * height * width
    tall, wide = vae.tile_sample_min_height // side, vae.tile_sample_min_width // side
    if vae.use_tiling and (height > tall or width > wide):
        height = _lapped(height, tall, vae.tile_sample_stride_height // side)
        width = _lapped(width, wide, vae.tile_sample_stride_width // side)
    if getattr(vae, "use_framewise_decoding", False):
        length = vae.temporal_compression_ratio
        tile = vae.tile_sample_min_num_frames // length
        if frames > tile:  # each takes the first frame of the next one too
            frames = _lapped(frames, tile + 1, vae.tile_sample_stride_num_frames // length)
    return frames * height * width


def counted_in(vae: Any, shape: Sequence[int]) -> int:
    """Of what is told how many are left: frames of a clip, tiles of a sound."""
    return shape[2] if len(shape) > 3 else len(_starts(vae, shape[2]))


def _of_sound(vae: Any, length: int) -> int:
    lap, starts = vae.tile_latent_overlap, _starts(vae, length)
    return sum(min(length, at + starts.step + lap) - max(0, at - lap) for at in starts)


def _starts(vae: Any, length: int) -> range:
    return range(0, length, vae.tile_latent_min_length - 2 * vae.tile_latent_overlap)


def _lapped(length: int, tile: int, stride: int) -> int:
    return sum(min(tile, length - start) for start in range(0, length, stride))
