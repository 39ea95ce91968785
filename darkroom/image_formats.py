"""Formats of input images: the one list that readers, the command line and messages use.

Imports no decoder, because the command line names the formats and decodes none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """Format that is read."""

    name: str  # as people write it; in capitals, Pillow's name
    media_type: str
    suffixes: tuple[str, ...]


FORMATS = (
    ImageFormat("PNG", "image/png", (".png",)),
    ImageFormat("JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif")),
    ImageFormat("WebP", "image/webp", (".webp",)),
    ImageFormat("GIF", "image/gif", (".gif",)),
    ImageFormat("AVIF", "image/avif", (".avif",)),
    ImageFormat("BMP", "image/bmp", (".bmp",)),
    ImageFormat("TIFF", "image/tiff", (".tif", ".tiff")),
)
"""Decoders of other formats would only be there to be attacked. Pillow hands some of them to
programs of the machine. HEIC is missing because its decoders are under the GPL or the LGPL."""

NAMES = f"{', '.join(fmt.name for fmt in FORMATS[:-1])} or {FORMATS[-1].name}"
PILLOW_NAMES = tuple(fmt.name.upper() for fmt in FORMATS)
BY_SUFFIX = {suffix: fmt.media_type for fmt in FORMATS for suffix in fmt.suffixes}

_OTHERS = tuple(
    (name, re.compile(beginning, re.DOTALL | re.IGNORECASE))
    for name, beginning in (
        ("HEIC", rb".{4}ftyp(hei[cx]|hev[cx]|mif1|msf1)"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("TGA", rb".\0[\x02\x03\x0a\x0b]\0{5}.{8}[\x08\x0f\x10\x18\x20]"),
        ("ICO", rb"\0\0[\x01\x02]\0"),
        ("PSD", rb"8BPS"),
        ("SVG", rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]"),
    )
)
"""First bytes of files in formats that are not read. A TGA file begins much like an icon."""


def other_format(body: bytes) -> str | None:
    """Name of an image format that is recognized but not read; None if not recognized."""
    return next((name for name, beginning in _OTHERS if beginning.match(body)), None)
