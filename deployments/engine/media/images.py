"""Encoding of tensors as image files.

Never on the engine's thread: a large image takes tens of milliseconds, and every generation would
wait for it. Imports no torch: executors, which draw thumbnails, do without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from serve_app.domain.errors import PipelineFailed, Unsupported
from serve_app.domain.media.marking import XMP

if TYPE_CHECKING:
    import torch

SOFTWARE = "Darkroom"
_SOFTWARE_TAG, _EXIF_IFD, _USER_COMMENT = 0x0131, 0x8769, 0x9286  # of EXIF 2.32
_ASCII = b"ASCII\0\0\0"  # character code of a user comment

_ENCODERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # Above level 4, PNG takes several times as long for a few percent.
    "image/png": ("PNG", {"compress_level": 4}),
    "image/jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "image/webp": ("WEBP", {"quality": 92, "method": 4}),
}


def levels_of(pixels: torch.Tensor) -> torch.Tensor:
    """Convert ``pixels`` to 8 bits: uint8 [n, height, width, channels], on the same device.

    ``pixels``: [n, channels, height, width] from 0 to 1, on any device and of any float type; 3
    channels, or 4 with alpha.
    """
    levels = pixels.detach().float().clamp(0, 1).mul(255).round().byte()
    return levels.permute(0, 2, 3, 1).contiguous()


def to_levels(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """Convert to 8 bits on the host; see ``levels_of``. Raises as ``require_finite``."""
    require_finite(finite(pixels))
    return levels_of(pixels).cpu().numpy()


def finite(pixels: torch.Tensor) -> torch.Tensor:
    """Boolean [1] on the same device: all values are finite numbers."""
    return pixels.detach().isfinite().all().reshape(1)


def require_finite(is_finite: torch.Tensor) -> None:
    """Raise ``PipelineFailed`` if values were not ``finite``. In 8 bits, they would be black."""
    if not is_finite.item():
        raise PipelineFailed(
            "The model made pixels that are not finite numbers. It may need more precision than it "
            "is loaded with (`dtype` in the catalogue), or a LoRA has too large a scale."
        )


def to_images(
    output: torch.Tensor | NDArray[Any] | Image.Image | Sequence[Any],
) -> list[Image.Image]:
    """Convert to PIL images; see ``to_levels``. Some pipelines return arrays, channels last, or
    images, whatever they are asked for. Those of layers return a list of tensors."""
    if isinstance(output, Image.Image):
        return [output.convert("RGB")]
    if isinstance(output, Sequence):
        return [image for entry in output for image in to_images(entry)]
    if isinstance(output, np.ndarray):
        import torch  # noqa: PLC0415

        output = torch.from_numpy(output).permute(0, 3, 1, 2)
    return [Image.fromarray(image) for image in to_levels(output)]


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Crop the centre of ``image`` to the aspect ratio of width × height, and resize to that."""
    scale = min(image.width / width, image.height / height)
    # Both fit, but rounding could push one of them beyond the image, which Pillow refuses.
    across, down = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    if scale == 1:
        left, top = int(left), int(top)
        return image.crop((left, top, left + width, top + height))
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def stretch(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize all of ``image`` to width × height, ignoring its aspect ratio."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode(
    image: Image.Image, media_type: str, comment: str = "", *, marked: bool = False
) -> bytes:
    """Encode an image. Raises ``Unsupported`` for an unknown media type.

    ``comment``: ASCII text for the format's own field; empty: none. ``marked``: the file says
    that it is AI-generated.
    """
    if media_type not in _ENCODERS:
        raise Unsupported(
            f"Images cannot be written as {media_type}. Ask for another output_format."
        )
    name, options = _ENCODERS[media_type]
    buffer = BytesIO()
    image.save(buffer, name, **options, **_metadata(name, comment, marked=marked))
    return buffer.getvalue()


def _metadata(name: str, comment: str, *, marked: bool) -> Mapping[str, Any]:
    """Arguments of Pillow that write a comment (text chunks of PNG, else EXIF) and the mark."""
    if name == "PNG":
        texts = PngInfo()
        if comment:
            texts.add_text("Software", SOFTWARE)
            texts.add_text("Comment", comment)
        if marked:
            texts.add_itxt("XML:com.adobe.xmp", XMP)
        return {"pnginfo": texts}
    mark = {"xmp": XMP.encode()} if marked else {}
    if not comment:
        return mark
    exif = Image.Exif()
    exif[_SOFTWARE_TAG] = SOFTWARE
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _ASCII + comment.encode("ascii")
    return {"exif": exif.tobytes(), **mark}


THUMBNAIL_SIDE = 512
"""Longest side of a thumbnail in pixels."""


def thumbnail(image: Image.Image, *, marked: bool = False) -> tuple[bytes, int, int]:
    """Small WebP of an image, with its width and height. ``image`` is not changed.

    A photograph of 512×512 takes about 9 kB.
    """
    scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=1.0)
    buffer = BytesIO()
    # A higher `method` takes twice the time for a tenth of the size.
    mark = _metadata("WEBP", "", marked=marked)
    small = small if small.mode == "RGBA" else small.convert("RGB")
    small.save(buffer, "WEBP", quality=60, method=2, **mark)
    return buffer.getvalue(), width, height
