"""Conversion of maps that a model predicts, such as depth, to images.

Never on the engine's thread, as in ``images``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deployments.engine.media.images import finite, require_finite, to_images

_MOST = 2**16 - 1


def as_tensor(prediction: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """Maps in float32 on the host, channels first: [n, channels, height, width]. Raises as
    ``require_finite``."""
    if isinstance(prediction, np.ndarray):
        prediction = torch.from_numpy(prediction).permute(0, 3, 1, 2)
    require_finite(finite(prediction))
    return prediction.detach().float().cpu()


def exact_depth(depth: torch.Tensor) -> Image.Image:
    """Depth as it is, in 16 bits. ``depth``: [1, height, width] from 0 to 1."""
    levels = depth[0].clamp(0, 1).double().mul(_MOST).round()
    return Image.fromarray(levels.numpy().astype(np.uint16))


def unrounded(depth: torch.Tensor) -> Image.Image:
    """Depth as an image of floats, to be cropped. ``depth``: [1, height, width]."""
    return Image.fromarray(depth[0].numpy())


def of_unrounded(image: Image.Image) -> torch.Tensor:
    """Depth of an image of floats."""
    return torch.from_numpy(np.array(image))[None]


def shown_depth(depth: torch.Tensor, *, near_is_high: bool) -> Image.Image:
    """Depth in grey: what is near is light. ``depth``: [1, height, width] from 0 to 1."""
    return _to_image(depth if near_is_high else 1 - depth)


def shown_normals(normals: torch.Tensor) -> Image.Image:
    """Normals as colours: from -1 (0) to 1 (255). ``normals``: [3, height, width]."""
    return _to_image((normals + 1) / 2)


def intrinsics(targets: torch.Tensor, properties: Mapping[str, Any]) -> Mapping[str, Image.Image]:
    """Images by the names that ``properties``, the pipeline's ``target_properties``, have for them.
    ``targets``: [targets, 3, height, width] from 0 to 1."""
    from diffusers.pipelines.marigold.marigold_image_processing import (  # noqa: PLC0415
        MarigoldImageProcessor,
    )

    (images,) = MarigoldImageProcessor.visualize_intrinsics(targets, dict(properties))
    return {name: image.convert("RGB") for name, image in images.items()}


def _to_image(pixels: torch.Tensor) -> Image.Image:
    (image,) = to_images(pixels.expand(3, -1, -1)[None])
    return image
