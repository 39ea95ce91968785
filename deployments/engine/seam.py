"""The frames of a clip out of the chunks in which an autoencoder decodes it, as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify

from deployments.engine.declarations import Joins


class Seam(Protocol):
    """For the chunks of one clip, each once and in their order."""

    def frames(self, chunk: torch.Tensor) -> torch.Tensor:
        """Those that nothing will change any more: [1, 3, frames, height, width], -1 to 1.
        ``chunk`` may be changed."""
        ...


def seam_of(vae: Any, shape: Sequence[int], joins: Joins | None) -> Seam | None:
    """For latents of ``shape`` [clips, channels, frames, height, width]; None where a frame may
    still change when all chunks are there, or nothing is known."""
    if joins is None or shape[0] != 1:
        return None
    if joins is Joins.IN_LINE:
        return None if vae.use_tiling else _Line(vae)
    if not vae.use_framewise_decoding:
        return None
    if shape[2] <= vae.tile_sample_min_num_frames // vae.temporal_compression_ratio:
        return None
    return _Lap(vae, shape[2], without_first=joins is Joins.LAPPED_WITHOUT_FIRST)


def in_tiles(vae: Any, shape: Sequence[int]) -> bool:
    """Whether each chunk in time is itself put together of tiles, by ``vae.tiled_decode``."""
    side = getattr(vae, "spatial_compression_ratio", None)
    if side is None or not vae.use_tiling:
        return False
    tall, wide = vae.tile_sample_min_height // side, vae.tile_sample_min_width // side
    return shape[3] > tall or shape[4] > wide


class _Line:
    def __init__(self, vae: Any) -> None:
        # Wan's lays the pixels of its patches out when all chunks are there.
        wan = isinstance(vae, AutoencoderKLWan)
        self._patch: int | None = vae.config["patch_size"] if wan else None

    def frames(self, chunk: torch.Tensor) -> torch.Tensor:
        return chunk if self._patch is None else unpatchify(chunk, patch_size=self._patch)


class _Lap:
    """Blends as diffusers' ``_temporal_tiled_decode`` does, with no more than the end of the chunk
    before."""

    def __init__(self, vae: Any, length: int, *, without_first: bool) -> None:
        self._vae = vae
        self._without_first = without_first
        self._stride: int = vae.tile_sample_stride_num_frames
        self._lap: int = vae.tile_sample_min_num_frames - self._stride
        self._left: int = (length - 1) * vae.temporal_compression_ratio + 1
        self._end: torch.Tensor | None = None  # what the next chunk begins with

    def frames(self, chunk: torch.Tensor) -> torch.Tensor:
        fresh = self._stride
        if self._end is None:
            fresh += 1
        else:
            chunk = chunk[:, :, 1:] if self._without_first else chunk[:, :, :-1]
            chunk = self._vae.blend_t(self._end, chunk, self._lap)
        # A copy: the rest of the chunk can go.
        self._end = chunk[:, :, max(0, chunk.shape[2] - self._lap) :].clone()
        made = chunk[:, :, : min(fresh, self._left)]
        self._left -= made.shape[2]
        return made
