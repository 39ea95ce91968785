"""What the tasks that begin with a picture have in common. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deployments.picture_size import Size, at_most
from deployments.task import TEXT_TO_IMAGE
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MOST_MEGAPIXELS = 4.2
"""A given picture with more of them is made smaller, unless the endpoint's bounds say otherwise."""


def from_words_alone(endpoint: Endpoint) -> Endpoint:
    """The same weights, asked for a picture from a prompt."""
    return replace(endpoint, options={**endpoint.options, "task": TEXT_TO_IMAGE})


def given_size(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    """That of the given picture."""
    most = endpoint.bounds.get("megapixels", (0.0, MOST_MEGAPIXELS))[1]
    return at_most(Size(*input["image_url"].size), most)


def stretched_to(picture: Image, size: Size) -> Image:
    """The whole picture in ``size``."""
    from PIL.Image import Resampling  # noqa: PLC0415

    return picture.resize((size.width, size.height), Resampling.LANCZOS, reducing_gap=3.0)


def as_pixels(picture: Image, size: Size) -> Tensor:
    """The whole picture, stretched to ``size``: float32 [1, channels, height, width], 0 to 1."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    levels = np.asarray(stretched_to(picture, size), dtype=np.float32) / 255.0
    pixels = torch.from_numpy(np.atleast_3d(levels))
    return pixels.permute(2, 0, 1)[None].contiguous()


def strength_of(input: Mapping[str, Any], steps: int) -> float:
    """How much of the picture is drawn anew, such that at least one of the steps is left."""
    strength = float(input["strength"])
    if int(steps * strength) < 1:
        raise InvalidInput.of_field(
            "strength",
            f"{strength:g} of {steps} steps leaves none: raise strength or num_inference_steps",
        )
    return strength
