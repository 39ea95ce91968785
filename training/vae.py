"""The image autoencoder: 16× smaller each way, 12 channels, trained on rendered scenes."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from training.palette import BACKGROUND_COLOURS, OBJECT_COLOURS
from training.precision import autocast
from training.world import SIDE, Scene, masks, render_array, sample_scene

LATENT_CHANNELS: Final = 12

#: Noise added to latents in training, so that the decoder forgives the transformer's small errors.
LATENT_NOISE: Final = 0.1

#: An object fills a tenth of an image; without this weight the background decides the loss.
_OBJECT_WEIGHT: Final = 6.0
#: The distance to its background, in RGB, and the radius, in pixels, of an object with that weight.
#: A fainter or smaller one weighs more, or the loss would hardly know its outline; up to so often.
_USUAL_DISTANCE: Final = 200.0
_USUAL_RADIUS: Final = 20.0
_MOST_OFTEN: Final = 4.0
_LATENT_PENALTY: Final = 1e-4
_COLOUR_SCALE: Final = 2.0
_COLOUR_PULL: Final = 0.05


def build_vae() -> AutoencoderKL:
    """An untrained autoencoder whose posterior has the fixed deviation `LATENT_NOISE`."""
    channels = (16, 24, 48, 64, 96)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # One group: several would each lose their level, and with it the colour of a plain field.
        norm_num_groups=1,
        sample_size=128,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )
    pin_posterior(vae)
    return vae


@torch.no_grad()
def pin_posterior(vae: AutoencoderKL) -> None:
    """Fix the posterior's deviation at `LATENT_NOISE`; training leaves it to weight decay."""
    head = vae.encoder.conv_out
    head.weight[LATENT_CHANNELS:].zero_()
    head.bias[LATENT_CHANNELS:].fill_(2 * math.log(LATENT_NOISE))


def to_pixels(scenes: list[Scene]) -> Tensor:
    """The scenes as the autoencoder sees them: float32 [B, 3, H, W], channels last, -1 to 1."""
    images = np.stack([render_array(scene) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2.0 - 1.0


def sample_batch(
    rng: np.random.Generator, size: int, *, width: int = SIDE, height: int = SIDE
) -> tuple[Tensor, Tensor]:
    """Images [B, 3, H, W] of the training split and what their pixels weigh [B, 1, H, W].

    The weight is 0 off the objects, about 1 on a usual one, more on a faint or a small one.
    """
    scenes = [
        sample_scene(rng, pair=bool(rng.random() < 0.6), width=width, height=height)
        for _ in range(size)
    ]
    weights = np.stack([_weights_of(scene) for scene in scenes])
    return to_pixels(scenes), torch.from_numpy(weights)[:, None]


def _weights_of(scene: Scene) -> np.ndarray:
    ground = np.array(BACKGROUND_COLOURS[scene.background], dtype=np.float32)
    weighed = [
        cover * min(_MOST_OFTEN, _USUAL_DISTANCE / distance * _USUAL_RADIUS / thing.radius)
        for thing, cover in zip(scene.things, masks(scene), strict=True)
        for distance in [np.linalg.norm(OBJECT_COLOURS[thing.colour] - ground)]
    ]
    return np.stack(weighed).max(axis=0).astype(np.float32)


def loss_on(vae: AutoencoderKL, pixels: Tensor, weights: Tensor) -> Tensor:
    """Weighted error of what comes back, plus terms for small latents and distinct colours.

    The first three latent channels are pulled towards each cell's mean colour. Without that the
    autoencoder takes most of its training to distinguish more than warm from cold.
    """
    mean = vae.encode(pixels).latent_dist.mean
    colour = functional.mse_loss(
        mean[:, :3].float(), _COLOUR_SCALE * functional.avg_pool2d(pixels, 16)
    )
    return (
        _decoding_loss(vae, mean, pixels, weights)
        + _COLOUR_PULL * colour
        + _LATENT_PENALTY * mean.float().square().mean()
    )


def decoder_loss_on(vae: AutoencoderKL, pixels: Tensor, weights: Tensor) -> Tensor:
    """The same error for the decoder alone: latents that others were trained on stay valid."""
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean
    return _decoding_loss(vae, mean, pixels, weights)


def _decoding_loss(vae: AutoencoderKL, mean: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    drawn = vae.decode(mean + LATENT_NOISE * torch.randn_like(mean)).sample.float()
    # Edges count as object: the weights are grown by two pixels.
    weight = 1.0 + _OBJECT_WEIGHT * functional.max_pool2d(weights, 5, stride=1, padding=2)
    error = drawn - pixels
    return ((error.abs() + error.square()) * weight).mean()


@torch.no_grad()
def encode(vae: AutoencoderKL, scenes: list[Scene], *, batch: int = 32) -> Tensor:
    """The scenes' mean latents before scaling: float32 [N, 12, H/16, W/16]."""
    parts = [scenes[i : i + batch] for i in range(0, len(scenes), batch)]
    with autocast():
        return torch.cat([vae.encode(to_pixels(part)).latent_dist.mean.float() for part in parts])


def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Set the factors with which a pipeline makes these latents zero-mean with unit deviation."""
    vae.register_to_config(
        shift_factor=float(latents.mean()), scaling_factor=float(1.0 / latents.std())
    )
