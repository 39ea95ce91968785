"""The image autoencoder: 16× smaller each way, 12 channels. It goes on from the shipped one."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from training.image.world import LAYOUTS, SIDE, Composition, cover_of, render_array, sample
from training.palette import BACKGROUND_COLOURS
from training.precision import autocast

LATENT_CHANNELS: Final = 12

#: Noise added to latents in training, so that the decoder forgives the transformer's small errors.
LATENT_NOISE: Final = 0.1

#: How often each of `LAYOUTS` is drawn.
LAYOUT_PARTS: Final = (0.16, 0.21, 0.18, 0.24, 0.21)

#: What the pixels of an object and those of an edge weigh beside the background's 1. Objects fill a
#: tenth of an image, and edges a hundredth, but edges are what one sees of a shape.
_OBJECT_WEIGHT: Final = 3.0
_EDGE_WEIGHT: Final = 10.0
#: What a pixel of a thin part weighs more, such as the point of a star, by how much background is
#: around it. Points are few pixels, and the last that a decoder learns to draw sharp.
_POINT_WEIGHT: Final = 30.0
_AROUND: Final = 13
#: The distance to its background, in RGB, of an object with that weight; a fainter one weighs more.
_USUAL_DISTANCE: Final = 200.0
#: The radius of an object with that weight, in pixels; a smaller one weighs more, up to so many
#: times. It has fewer pixels, and each says more of its shape.
_USUAL_RADIUS: Final = 60.0
_MOST_OF_SMALL: Final = 3.0
#: What the outermost pixels of an image weigh more, and those of its corners: convolutions see
#: nothing beyond them, and leave specks there.
_BORDER: Final = 2
_BORDER_WEIGHT: Final = 3.0
_CORNER: Final = 5
_CORNER_WEIGHT: Final = 20.0
_LATENT_PENALTY: Final = 1e-4


@torch.no_grad()
def pin_posterior(vae: AutoencoderKL) -> None:
    """Fix the posterior's deviation at `LATENT_NOISE`; training leaves it to weight decay."""
    head = vae.encoder.conv_out
    head.weight[LATENT_CHANNELS:].zero_()
    head.bias[LATENT_CHANNELS:].fill_(2 * math.log(LATENT_NOISE))


def sample_compositions(
    rng: np.random.Generator, size: int, *, width: int = SIDE, height: int = SIDE
) -> list[Composition]:
    """Compositions of the training split, with all layouts, of one image size."""
    chosen = rng.choice(len(LAYOUTS), size=size, p=LAYOUT_PARTS)
    return [sample(rng, LAYOUTS[i], width=width, height=height) for i in chosen]


def to_pixels(compositions: list[Composition]) -> Tensor:
    """Images as the autoencoder sees them: float32 [B, 3, H, W], channels last, -1 to 1."""
    images = np.stack([render_array(composition) for composition in compositions])
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2.0 - 1.0


def weights_of(compositions: list[Composition]) -> Tensor:
    """What each pixel weighs in the loss: float32 [B, 1, H, W], 1 far from all objects."""
    weighed = []
    for composition in compositions:
        ground = np.array(BACKGROUND_COLOURS[composition.background], dtype=np.float32)
        weight = 1.0 + _rim(composition.width, composition.height)
        for item in composition.items:
            distance = float(np.linalg.norm(BACKGROUND_COLOURS[item.colour] - ground))
            small = min(max(1.0, _USUAL_RADIUS / item.radius), _MOST_OF_SMALL)
            more = max(1.0, _USUAL_DISTANCE / distance) * small
            covered = cover_of(composition, item)
            outline = _EDGE_WEIGHT * _edge(covered) + _POINT_WEIGHT * _thin(covered)
            weight += more * (_OBJECT_WEIGHT * covered + outline)
        weighed.append(weight)
    return torch.from_numpy(np.stack(weighed))[:, None]


def _rim(width: int, height: int) -> np.ndarray:
    """What the pixels at the image's border and in its corners weigh more: [height, width]."""
    across = np.minimum(np.arange(width), np.arange(width)[::-1])
    down = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
    border = np.minimum(across, down) < _BORDER
    corner = np.maximum(across, down) < _CORNER
    return (_BORDER_WEIGHT * border + _CORNER_WEIGHT * corner).astype(np.float32)


def _edge(covered: np.ndarray) -> np.ndarray:
    """The cover's greatest value within two pixels less its least."""
    cover = torch.from_numpy(covered)[None, None]
    most = functional.max_pool2d(cover, 5, stride=1, padding=2)
    least = -functional.max_pool2d(-cover, 5, stride=1, padding=2)
    return (most - least)[0, 0].numpy()


def _thin(covered: np.ndarray) -> np.ndarray:
    """How much of a covered pixel's surroundings is not, beyond what it is at straight edges."""
    cover = torch.from_numpy(covered)[None, None]
    around = functional.avg_pool2d(cover, _AROUND, stride=1, padding=_AROUND // 2)
    return (cover * (0.6 - around).clamp(min=0.0))[0, 0].numpy()


def loss_on(vae: AutoencoderKL, pixels: Tensor, weights: Tensor) -> Tensor:
    """The weighted error of what comes back, plus a term for small latents."""
    mean = vae.encode(pixels).latent_dist.mean
    return (
        _decoding_loss(vae, mean, pixels, weights) + _LATENT_PENALTY * mean.float().square().mean()
    )


def decoder_loss_on(vae: AutoencoderKL, pixels: Tensor, weights: Tensor) -> Tensor:
    """The same error for the decoder alone: latents that others were trained on stay valid."""
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean
    return _decoding_loss(vae, mean, pixels, weights)


def fitting_loss_on(
    vae: AutoencoderKL, drawn_latents: Tensor, pixels: Tensor, weights: Tensor
) -> Tensor:
    """The same error for latents [B, 12, H/16, W/16] that a transformer has drawn of the images."""
    return _error(vae.decode(drawn_latents).sample, pixels, weights)


def _decoding_loss(vae: AutoencoderKL, mean: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    noisy = mean + LATENT_NOISE * torch.randn_like(mean)
    return _error(vae.decode(noisy).sample, pixels, weights)


def _error(drawn: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    error = drawn.float() - pixels
    return ((error.abs() + error.square()) * weights).mean()


@torch.no_grad()
def encode(vae: AutoencoderKL, compositions: list[Composition], *, batch: int = 16) -> Tensor:
    """The compositions' mean latents before scaling: float32 [N, 12, H/16, W/16]."""
    parts = [compositions[i : i + batch] for i in range(0, len(compositions), batch)]
    with autocast():
        return torch.cat([vae.encode(to_pixels(part)).latent_dist.mean.float() for part in parts])


def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Set the factors with which a pipeline makes these latents zero-mean with unit deviation."""
    vae.register_to_config(
        shift_factor=float(latents.mean()), scaling_factor=float(1.0 / latents.std())
    )
