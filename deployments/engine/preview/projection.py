"""Latents to colours without the decoder: a linear map, learned from the autoencoder itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.domain.errors import Unsupported

_PICTURES = 8
_SIDES = (
    128,
    256,
)  # pixels; the larger where too few latents are left of the smaller
_LEAST_SAMPLES = 4  # per unknown
_CONTRAST = 4.4  # black, white and pure colours are common; chosen by trial with the demo models
_RIDGE = 1e-3  # of the samples; keeps channels that never vary from mattering


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Of the latents that an autoencoder's decoder takes."""

    weight: Tensor  # [channels, 3], float32, on the autoencoder's device
    bias: Tensor  # [3]

    def __call__(self, latents: Tensor) -> Tensor:
        """[channels, height, width] → [height, width, 3], from 0 to 1."""
        colours = latents.float().permute(1, 2, 0) @ self.weight + self.bias
        return colours.clamp(0, 1)


def fitted(vae: Any) -> Projection:
    """By least squares over a few patches of colour that ``vae`` encodes: less work than decoding
    one picture. ``Unsupported`` where it does not encode pictures."""
    with torch.no_grad():
        pictures, latents = _samples(_exact(vae))
    _, channels, height, width = latents.shape
    colours = functional.adaptive_avg_pool2d(pictures, (height, width)).mul(0.5).add(0.5)
    known = latents.permute(0, 2, 3, 1).reshape(-1, channels).double().cpu()
    if not known.isfinite().all():
        raise Unsupported("The autoencoder gives latents that are no numbers.")
    known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], dim=1)
    wanted = colours.permute(0, 2, 3, 1).reshape(-1, 3).double()
    square = known.T @ known + _RIDGE * len(known) * torch.eye(channels + 1, dtype=known.dtype)
    solution = torch.linalg.solve(square, known.T @ wanted).float().to(latents.device)
    return Projection(solution[:-1], solution[-1])


def _samples(vae: Any) -> tuple[Tensor, Tensor]:
    """Pictures, [n, 3, side, side], and their latents, [n, channels, h, w]."""
    pictures = _pictures(_SIDES[0])
    latents = _encoded(vae, pictures)
    channels = latents.shape[1]
    if latents.numel() // channels < _LEAST_SAMPLES * (channels + 1):
        pictures = _pictures(_SIDES[1])
        latents = _encoded(vae, pictures)
    return pictures, latents


def _encoded(vae: Any, pictures: Tensor) -> Tensor:
    weight = next((each for each in vae.parameters() if each.ndim >= 4), None)
    if weight is None or not _makes_colours(vae.config) or not hasattr(vae, "encode"):
        raise Unsupported(f"Its {type(vae).__name__} does not encode pictures.")
    given = pictures.to(weight.device, weight.dtype)
    clips = weight.ndim == 5  # of one frame
    given = given.unsqueeze(2) if clips else given
    # One by one: not every autoencoder of clips takes several.
    latents = torch.cat([_latents_in(vae.encode(each)) for each in given.split(1)])
    latents = latents[:, :, 0] if clips else latents
    if latents.ndim != 4:
        raise Unsupported(f"Its {type(vae).__name__} makes no latents that lie like a picture.")
    return latents.float()


def _makes_colours(config: Any) -> bool:
    """Mochi's in_channels counts other things, and Wan 2.2's small model makes squares of pixels as
    channels, where LTX-Video, which makes them too, counts the colours."""
    made, side = getattr(config, "out_channels", 3), getattr(config, "patch_size", None)
    return made == 3 or (isinstance(side, int) and made == 3 * side**2)


def _latents_in(output: Any) -> Tensor:
    if (distribution := getattr(output, "latent_dist", None)) is not None:
        return distribution.mode()
    for name in ("latents", "latent"):
        if isinstance(found := getattr(output, name, None), Tensor):
            return found
    raise Unsupported(f"What the autoencoder makes is not known: {type(output).__name__}.")


def _exact(vae: Any) -> Any:
    """In float16 some overflow, SDXL's among them; pipelines decode with such in float32."""
    return copy.deepcopy(vae).float() if vae.dtype == torch.float16 else vae


def _pictures(side: int) -> Tensor:
    """[n, 3, side, side], from -1 to 1: patches and runs of colour, always the same."""
    chance = torch.Generator().manual_seed(0)
    made: list[Tensor] = []
    for number in range(_PICTURES):
        cells = 2 + number // 2
        grid = torch.rand(1, 3, cells, cells, generator=chance).sub(0.5) * _CONTRAST
        mode = "nearest" if number % 2 else "bilinear"
        made.append(functional.interpolate(grid.clamp(-1, 1), (side, side), mode=mode))
    return torch.cat(made)
