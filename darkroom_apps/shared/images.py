"""Images that apps read, and arrays as images."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import darkroom

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PilImage

MAX_PIXELS = 16_000_000  # of an input

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Colours of ImageNet, by which most models normalise theirs."""


def read(given: darkroom.Image, field: str = "image_url") -> PilImage:
    """The image as RGB, upright as browsers show it, on white. ``InvalidField``: it is too large,
    or no image."""
    from PIL import Image, ImageOps

    try:
        with Image.open(given.path) as image:
            if image.width * image.height > MAX_PIXELS:  # before its pixels need memory
                raise darkroom.InvalidField(
                    field,
                    f"The image has {image.width}×{image.height} pixels; at most "
                    f"{MAX_PIXELS // 1_000_000} megapixels are possible",
                )
            image.load()
            # Where its EXIF is damaged, its pixels are not.
            with suppress(struct.error, SyntaxError, TypeError, ValueError):
                ImageOps.exif_transpose(image, in_place=True)
            if not image.has_transparency_data:
                return image.convert("RGB")
            opaque = Image.new("RGB", image.size, "white")
            opaque.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
            return opaque
    except (OSError, Image.DecompressionBombError) as error:
        raise darkroom.InvalidField(field, "The image cannot be read") from error


def normalised(image: PilImage, size: tuple[int, int]) -> np.ndarray[Any, Any]:
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


def written(image: PilImage, format: Literal["png", "jpeg", "webp", "gif"]) -> darkroom.Image:
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
