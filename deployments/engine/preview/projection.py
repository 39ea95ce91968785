"""Linear projection from latents to colours, fitted to the autoencoder; no decoder is needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.domain.errors import Unsupported

_IMAGES = 8
_SIDES = (
    128,
    256,
)  # pixels; the larger one is used if the smaller gives too few latents
_MIN_SAMPLES = 4  # per unknown
_CONTRAST = 4.4  # black, white and pure colours are common; found by trial with the demo models
_CHANNELS = (3, 4, 6)  # colours; with alpha; with LDM3D's depth
_RIDGE = 1e-3  # relative to the samples; keeps constant channels from having an influence


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Projection of the latents that an autoencoder's decoder takes."""

    weight: Tensor  # [channels, 3], float32, on the autoencoder's device
    bias: Tensor  # [3]

    @classmethod
    def of_pixels(cls, device: torch.device) -> Projection:
        """Projection of images with values from -1 to 1."""
        return cls(torch.eye(3, device=device) / 2, torch.full((3,), 0.5, device=device))

    def __call__(self, latents: Tensor) -> Tensor:
        """Map [channels, height, width] to [height, width, 3], from 0 to 1."""
        colours = latents.float().permute(1, 2, 0) @ self.weight + self.bias
        return colours.clamp(0, 1)


def fit_projection(vae: Any) -> Projection:
    """Fit by least squares over a few colour patches that ``vae`` encodes.

    This is less work than decoding one image. Raises ``Unsupported`` if ``vae`` cannot encode
    images.
    """
    with torch.no_grad():
        images, latents = _samples(_exact(vae))
    _, channels, height, width = latents.shape
    colours = functional.adaptive_avg_pool2d(images, (height, width)).mul(0.5).add(0.5)
    known = latents.permute(0, 2, 3, 1).reshape(-1, channels).double().cpu()
    if not known.isfinite().all():
        raise Unsupported("The autoencoder gives latents that are not finite numbers.")
    known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], dim=1)
    target = colours.permute(0, 2, 3, 1).reshape(-1, 3).double()
    square = known.T @ known + _RIDGE * len(known) * torch.eye(channels + 1, dtype=known.dtype)
    solution = torch.linalg.solve(square, known.T @ target).float().to(latents.device)
    return Projection(solution[:-1], solution[-1])


def _samples(vae: Any) -> tuple[Tensor, Tensor]:
    """Sample images, [n, 3, side, side], and their latents, [n, channels, h, w]."""
    images = _images(_SIDES[0])
    latents = _encode_images(vae, images)
    channels = latents.shape[1]
    if latents.numel() // channels < _MIN_SAMPLES * (channels + 1):
        images = _images(_SIDES[1])
        latents = _encode_images(vae, images)
    return images, latents


def _encode_images(vae: Any, images: Tensor) -> Tensor:
    weight = next((parameter for parameter in vae.parameters() if parameter.ndim >= 4), None)
    channels = _image_channels(vae.config)
    if weight is None or channels is None or not hasattr(vae, "encode"):
        raise Unsupported(f"Its {type(vae).__name__} does not encode images.")
    others = channels - images.shape[1]  # opaque; the depth of LDM3D is the same everywhere
    images = functional.pad(images, (0, 0, 0, 0, 0, others), value=1.0)
    batch = images.to(weight.device, weight.dtype)
    # A video autoencoder gets one frame. Qwen-Image 2.1's has weights for images only.
    videos = weight.ndim == 5 or any("temp" in name for name in vae.config)
    batch = batch.unsqueeze(2) if videos else batch
    # One by one: not every video autoencoder supports batches.
    latents = torch.cat([_latents_in(vae.encode(image)) for image in batch.split(1)])
    latents = latents[:, :, 0] if videos else latents
    if latents.ndim != 4:
        raise Unsupported(
            f"Its {type(vae).__name__} makes latents that are not arranged as an image."
        )
    return latents.float()


def _image_channels(config: Any) -> int | None:
    """Number of channels of the decoder's images: three colours, with alpha or depth; else None.

    Mochi's in_channels counts something else. Wan 2.2's small model outputs squares of pixels as
    channels; so does LTX-Video, but its configuration counts the colours. Qwen-Image's counts the
    channels of what it encodes only.
    """
    made = getattr(config, "out_channels", None) or getattr(config, "input_channels", 3)
    side = getattr(config, "patch_size", None)
    pixels = side**2 if isinstance(side, int) else 1
    return next((n for n in _CHANNELS if made in (n, n * pixels)), None)


def _latents_in(output: Any) -> Tensor:
    if (distribution := getattr(output, "latent_dist", None)) is not None:
        return distribution.mode()
    for name in ("latents", "latent"):
        if isinstance(latents := getattr(output, name, None), Tensor):
            return latents
    raise Unsupported(f"The autoencoder's output is of an unknown class: {type(output).__name__}.")


def _exact(vae: Any) -> Any:
    """Return the autoencoder, or a copy that can encode here.

    A copy in float32 if it is float16, where some overflow (SDXL's); pipelines do the same. A copy
    on the device if the autoencoder waits in host memory: a call of its own would displace what
    other generations compute with. A copy has no hooks, because they refer to the device.
    """
    hook = vars(vae).get("_hf_hook")
    if hook is None and vae.dtype != torch.float16:
        return vae
    clone = copy.deepcopy(vae, {} if hook is None else {id(hook): None})
    for name in ("_hf_hook", "_old_forward", "forward"):  # accelerate's
        vars(clone).pop(name, None)
    if vae.dtype == torch.float16:
        clone = clone.float()
    return clone if hook is None else clone.to(getattr(hook, "execution_device", None))


def _images(side: int) -> Tensor:
    """Sample images [n, 3, side, side], -1 to 1: colour patches and gradients, always the same."""
    chance = torch.Generator().manual_seed(0)
    batches: list[Tensor] = []
    for number in range(_IMAGES):
        cells = 2 + number // 2
        grid = torch.rand(1, 3, cells, cells, generator=chance).sub(0.5) * _CONTRAST
        mode = "nearest" if number % 2 else "bilinear"
        batches.append(functional.interpolate(grid.clamp(-1, 1), (side, side), mode=mode))
    return torch.cat(batches)
