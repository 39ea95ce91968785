"""Picture files to pictures, with nothing trusted: neither what they claim to be nor their size."""

from __future__ import annotations

import re
import warnings
from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from serve_app.domain.errors import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MOST_PIXELS = 50_000_000
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
"""How files of other formats begin."""


def read_picture(body: bytes, field: str, least_side: int = 1) -> Image.Image:
    """The picture as RGB, upright, what is transparent in it white; of several the first.
    ``least_side``: pixels that each side has at least.

    ``InvalidInput`` that names the field.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit is below the one at which Pillow begins to warn.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(body), formats=FORMATS) as opened:
                _check_size(opened, field, least_side)
                picture = ImageOps.exif_transpose(opened)
                return _on_white(picture)
    except UnidentifiedImageError:
        if (name := _format_of(body)) is not None:
            message = f"the picture is {name}, and {', '.join(FORMATS)} are read here"
            known = {"supported_formats": list(FORMATS)}
            raise InvalidInput.of_field(field, message, UNSUPPORTED, known) from None
        message = f"the file is no picture that is read here ({', '.join(FORMATS)})"
    except Image.DecompressionBombError:
        raise _too_large(field) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders raise all of these for damaged files.
        message = f"the picture cannot be read: {error}"
    raise InvalidInput.of_field(field, message, "image_load_error")


def _check_size(picture: Image.Image, field: str, least_side: int) -> None:
    if min(picture.size) < least_side:
        size = f"{picture.width}×{picture.height}"
        message = f"the picture is {size} pixels; each side has to have {least_side} at least"
        least = {"min_width": least_side, "min_height": least_side}
        raise InvalidInput.of_field(field, message, "image_too_small", least)
    if picture.width * picture.height > MOST_PIXELS:
        raise _too_large(field)


def _too_large(field: str) -> InvalidInput:
    message = f"the picture has more than {MOST_PIXELS} pixels"
    return InvalidInput.of_field(field, message, "image_too_large", {"max_pixels": MOST_PIXELS})


def _format_of(body: bytes) -> str | None:
    """Of a picture in another format than those that are read; None: it looks like none."""
    for name, beginning in _OTHERS:
        if beginning.match(body):
            return name
    return None


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
