"""Images as arrays, arrays as images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import darkroom

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PilImage

MAX_PIXELS = 16_000_000  # of an input

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Colours of ImageNet, by which most models normalise theirs."""


def normalise(image: PilImage, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Pixels of an image in another size, as most models need them: float32 [1, 3, H, W]."""
    import numpy as np
    from PIL import Image

    levels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    scaled = (levels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def grey(values: np.ndarray[Any, Any]) -> PilImage:
    """Image of ``values`` [H, W] from 0 to 1, or of a mask."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((values.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8))


def to_file(image: PilImage, format: Literal["png", "jpeg", "webp", "gif"]) -> darkroom.Image:
    """File with an image. JPEG is black where it is transparent, and what is half transparent is
    opaque or not in a GIF."""
    from PIL import Image

    if format == "jpeg" and image.mode == "RGBA":
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        image = black
    if format == "gif" and image.mode == "RGBA":
        alpha = image.getchannel("A")
        image.putalpha(alpha.point([0] * 128 + [255] * 128))
    return darkroom.Image.from_pil(image, format)
