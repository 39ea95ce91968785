"""The video autoencoder: an `AutoencoderKLWan` like that of Wan 2.2 5B, but small.

It packs 2 × 2 pixels before its first layer and halves twice in space and time: 8× smaller each
way, 4× shorter. The first frame stands alone, so that one image is a video of one frame.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional

from training.palette import BACKGROUND_COLOURS, OBJECT_COLOURS
from training.precision import autocast
from training.video.world import FRAMES, Video, masks, render_array, sample_video

LATENT_CHANNELS: Final = 16
SPATIAL: Final = 8
TEMPORAL: Final = 4

#: Noise added to latents in training, so that the decoder forgives the transformer's small errors.
LATENT_NOISE: Final = 0.1

#: Frames of a video that both halves learn from: two groups of four and the first. Later groups
#: come back with other colours, until the decoder has gone on alone with whole videos.
_JOINT_FRAMES: Final = 9
_OBJECT_WEIGHT: Final = 4.0
#: A fainter object weighs more, by its distance to the background in RGB; up to so often.
_USUAL_DISTANCE: Final = 200.0
_MOST_OFTEN: Final = 4.0
#: Times an object's own weight; pixels at most so far away are surroundings.
_OUTLINE_WEIGHT: Final = 4.0
_OUTLINE_REACH: Final = 4
_LATENT_PENALTY: Final = 1e-4
_COLOUR_SCALE: Final = 2.0
_COLOUR_PULL: Final = 0.05


def build_vae() -> AutoencoderKLWan:
    """An untrained autoencoder whose posterior has the fixed deviation `LATENT_NOISE`."""
    vae = AutoencoderKLWan(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=TEMPORAL,
        scale_factor_spatial=SPATIAL,
    )
    pin_posterior(vae)
    return vae


def lay_out(vae: AutoencoderKLWan) -> None:
    """Order the weights of convolutions by channels, in which they take two thirds of the time."""
    for weight in vae.parameters():
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if weight.dim() in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])


@torch.no_grad()
def pin_posterior(vae: AutoencoderKLWan) -> None:
    """Fix the posterior's deviation at `LATENT_NOISE`; training leaves it to weight decay."""
    vae.quant_conv.weight[LATENT_CHANNELS:].zero_()
    vae.quant_conv.bias[LATENT_CHANNELS:].fill_(2 * math.log(LATENT_NOISE))


def to_pixels(videos: list[Video], scale: int = 1) -> Tensor:
    """The videos as the autoencoder sees them: float32 [B, 3, FRAMES, side, side], -1 to 1.

    The side is ``scale`` times `SIDE`, here and below.
    """
    frames = np.stack([render_array(video, scale) for video in videos])
    pixels = torch.from_numpy(frames).permute(0, 4, 1, 2, 3) * 2.0 - 1.0
    return pixels.contiguous(memory_format=torch.channels_last_3d)


def sample_batch(
    rng: np.random.Generator, size: int, *, frames: int = _JOINT_FRAMES, scale: int = 1
) -> tuple[Tensor, Tensor]:
    """Neighbouring frames of videos of the training split, and what their pixels weigh.

    Pixels are [B, 3, frames, side, side], weights [B, 1, frames, side, side]: 0 off the object,
    about 1 on it, more where it is faint.
    """
    videos = [sample_video(rng, free=bool(rng.random() < 0.6)) for _ in range(size)]
    start = int(rng.integers(FRAMES - frames + 1))
    weights = np.stack([masks(video, scale) * _weight_of(video) for video in videos])
    cut = slice(start, start + frames)
    return to_pixels(videos, scale)[:, :, cut], torch.from_numpy(weights.astype(np.float32))[
        :, None, cut
    ]


def _weight_of(video: Video) -> float:
    ground = np.array(BACKGROUND_COLOURS[video.background], dtype=np.float32)
    distance = float(np.linalg.norm(OBJECT_COLOURS[video.colour] - ground))
    return min(_MOST_OFTEN, _USUAL_DISTANCE / distance)


def loss_on(vae: AutoencoderKLWan, pixels: Tensor, weights: Tensor) -> Tensor:
    """Weighted error of what comes back, plus terms for small latents and distinct colours.

    The first three latent channels are pulled towards each cell's mean colour: without that colours
    are distinguished last.
    """
    mean = vae.encode(pixels).latent_dist.mean
    colour = functional.mse_loss(mean[:, :3].float(), _COLOUR_SCALE * _cells(pixels))
    return (
        _decoding_loss(vae, mean, pixels, weights)
        + _COLOUR_PULL * colour
        + _LATENT_PENALTY * mean.float().square().mean()
    )


def decoder_loss_on(vae: AutoencoderKLWan, pixels: Tensor, weights: Tensor) -> Tensor:
    """The same error for the decoder alone: latents that others were trained on stay valid."""
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean
    return _decoding_loss(vae, mean, pixels, weights)


def weigh_outlines(weights: Tensor) -> Tensor:
    """Weights as of `sample_batch`, greater the more a pixel's surroundings differ from it.

    Along a straight edge they grow by a quarter of `_OUTLINE_WEIGHT`, at the tip of a triangle by
    two thirds: a triangle whose corners are round is a drop.
    """
    side = 2 * _OUTLINE_REACH + 1
    around = functional.avg_pool3d(
        weights, (1, side, side), 1, (0, _OUTLINE_REACH, _OUTLINE_REACH), count_include_pad=False
    )
    differing = (weights - around).square() / weights.amax().clamp(min=1e-3)
    return weights + _OUTLINE_WEIGHT * differing


def _decoding_loss(vae: AutoencoderKLWan, mean: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    drawn = vae.decode(mean + LATENT_NOISE * torch.randn_like(mean)).sample.float()
    # Edges count as object: the weights are grown by a pixel.
    weight = 1.0 + _OBJECT_WEIGHT * functional.max_pool3d(weights, (1, 3, 3), 1, (0, 1, 1))
    error = drawn - pixels
    return ((error.abs() + error.square()) * weight).mean()


@torch.no_grad()
def encode(
    vae: AutoencoderKLWan, videos: list[Video], *, batch: int = 16, scale: int = 1
) -> Tensor:
    """The videos' mean latents before scaling: float32 [N, 16, 5, side / 8, side / 8]."""
    parts = [videos[i : i + batch] for i in range(0, len(videos), batch)]
    with autocast():
        return torch.cat(
            [vae.encode(to_pixels(part, scale)).latent_dist.mean.float() for part in parts]
        )


def normalise_latents(vae: AutoencoderKLWan, latents: Tensor) -> None:
    """Set the factors with which a pipeline makes these latents zero-mean with unit deviation."""
    vae.register_to_config(
        latents_mean=latents.mean(dim=(0, 2, 3, 4)).tolist(),
        latents_std=latents.std(dim=(0, 2, 3, 4)).tolist(),
    )


def scale_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Latents [B, 16, T, H, W] as the transformer meets them."""
    mean, deviation = (
        torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) / deviation


def _cells(pixels: Tensor) -> Tensor:
    """The mean colour of what each latent stands for: [B, 3, latent frames, H / 8, W / 8]."""
    small = functional.avg_pool3d(pixels, (1, SPATIAL, SPATIAL))
    rest = functional.avg_pool3d(small[:, :, 1:], (TEMPORAL, 1, 1))
    return torch.cat([small[:, :, :1], rest], dim=2)
