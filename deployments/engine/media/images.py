"""Encoding of tensors as image files, and reading of image files.

Never on the engine's thread: a large image takes tens of milliseconds, and every generation would
wait for it. Imports no torch: executors, which draw thumbnails, do without.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from serve_app.domain.errors import InvalidInput, PipelineFailed, Unsupported
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
    """Convert ``pixels`` to 8 bits: uint8 [n, height, width, 3], on the same device.

    ``pixels``: [n, 3, height, width] from 0 to 1, on any device and of any float type.
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


def require_finite(found: torch.Tensor) -> None:
    """Raise ``PipelineFailed`` if values were not ``finite``. In 8 bits, they would be black."""
    if not found.item():
        raise PipelineFailed(
            "The model made pixels that are not finite numbers. It may need more precision than it "
            "is loaded with (`dtype` in the catalogue), or a LoRA has too large a scale."
        )


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Convert to PIL images; see ``to_levels``."""
    return [Image.fromarray(image) for image in to_levels(pixels)]


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
    small.convert("RGB").save(buffer, "WEBP", quality=60, method=2, **mark)
    return buffer.getvalue(), width, height


FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 50_000_000
UNSUPPORTED = "unsupported_image_format"

_OTHERS = tuple(
    (name, re.compile(beginning, re.DOTALL | re.IGNORECASE))
    for name, beginning in (
        ("AVIF", rb".{4}ftypavi[fs]"),
        ("HEIC", rb".{4}ftyp(hei[cx]|hev[cx]|mif1|msf1)"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("TIFF", rb"II\*\0|MM\0\*"),
        ("BMP", rb"BM.{4}\0{4}"),
        ("ICO", rb"\0\0[\x01\x02]\0"),
        ("PSD", rb"8BPS"),
        ("SVG", rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]"),
    )
)
"""First bytes of files in other formats."""


def read_image(body: bytes, field: str, least_side: int = 1) -> Image.Image:
    """Decode an image as RGB, upright, on white where it is transparent; the first of several.

    ``least_side``: minimum pixels of each side. Raises ``InvalidInput`` naming the field.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit is below Pillow's warning threshold.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Damaged EXIF is the file's matter, not the operator's: its pixels can be read.
            warnings.filterwarnings("ignore", "(Possibly )?corrupt EXIF", UserWarning)
            with Image.open(BytesIO(body), formats=FORMATS) as opened:
                _check_size(opened, field, least_side)
                return flat(opened)
    except UnidentifiedImageError:
        if (name := _format_of(body)) is not None:
            message = f"the image is {name}, which is not supported (use {', '.join(FORMATS)})"
            known = {"supported_formats": list(FORMATS)}
            raise InvalidInput.of_field(field, message, UNSUPPORTED, known) from None
        message = f"the file is not a supported image ({', '.join(FORMATS)})"
    except Image.DecompressionBombError:
        raise _too_large(field) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders raise all of these for damaged files.
        message = f"the image cannot be read: {error}"
    raise InvalidInput.of_field(field, message, "image_load_error")


SHOWN = *FORMATS, "AVIF", "BMP", "TIFF"
"""Formats of files that have a thumbnail. Pillow hands some others to programs of the machine, and
the files of apps may be anything."""


def stored_image(file: BinaryIO) -> Image.Image:
    """Decode an image as ``read_image`` does, for a thumbnail. ``ValueError`` or ``OSError`` if it
    cannot be read or has more than ``MAX_PIXELS``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file, formats=SHOWN) as opened:
            opened.draft("RGB", (1024, 1024))  # a large JPEG is read at a fraction of its size
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"The image has more than {MAX_PIXELS} pixels.")
            return flat(opened)


def flat(image: Image.Image) -> Image.Image:
    """An opened image as RGB, upright, on white where it is transparent; the first of several."""
    return _on_white(_in_8_bits(_upright(image)))


def _check_size(image: Image.Image, field: str, least_side: int) -> None:
    if min(image.size) < least_side:
        size = f"{image.width}×{image.height}"
        message = f"the image is {size} pixels; each side must have at least {least_side}"
        least = {"min_width": least_side, "min_height": least_side}
        raise InvalidInput.of_field(field, message, "image_too_small", least)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(field)


def _too_large(field: str) -> InvalidInput:
    message = f"the image has more than {MAX_PIXELS} pixels"
    return InvalidInput.of_field(field, message, "image_too_large", {"max_pixels": MAX_PIXELS})


def _format_of(body: bytes) -> str | None:
    """Name of an image format that is recognized but not supported; None if not recognized."""
    for name, beginning in _OTHERS:
        if beginning.match(body):
            return name
    return None


_ORIENTATION = 0x0112  # tag of EXIF 2.32
_TURNS: Mapping[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF says.

    ``ImageOps.exif_transpose`` also writes the other tags anew, and raises ``TypeError`` or
    ``struct.error`` for one that a camera has stored with another type.
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except (struct.error, TypeError, SyntaxError, ValueError, OSError):
        return image  # its EXIF is damaged or cut off, but its pixels were read
    return image if turn is None else image.transpose(turn)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Halve the bits of grey values of 16 bits, of which Pillow makes white when it converts them.

    It halves those of colours itself.
    """
    if not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
