"""The same picture, and the same mask, in files of many kinds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from tests.domain.media import icc

PATCHES = ((190, 90, 90), (100, 170, 100), (90, 110, 180), (255, 255, 255))
INKS = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0))
SIDE = 16  # of a patch: a block of JPEG with halved colours
PLACES = np.array([[0, 1, 3], [2, 3, 3]])  # of the patches; it looks different after any turn
LOSSY = ("JPEG", "AVIF")  # at their best quality too

Cell = tuple[str, str, int]
"""Format, kind of colours, and EXIF's orientation."""


def as_file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def scene(patches: Any = PATCHES, side: int = SIDE) -> np.ndarray:
    """Patches as an array: uint8 [2 × side, 3 × side, channels]."""
    return np.array(patches, np.uint8)[PLACES].repeat(side, 0).repeat(side, 1)


def grey(levels: np.ndarray) -> np.ndarray:
    """What is left of colours in grey: uint8 [h, w, 3]."""
    return np.asarray(Image.fromarray(levels).convert("L").convert("RGB"))


def turn_back(levels: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores that is held so: ``levels`` turned the other way."""
    mirrored, turns = {
        1: (False, 0), 2: (True, 0), 3: (False, 2), 4: (True, 2),
        5: (True, 3), 6: (False, 1), 7: (True, 1), 8: (False, 3),
    }[orientation]  # fmt: skip
    turned = np.rot90(levels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def in_16_bits(levels: np.ndarray, exif: bytes) -> bytes:
    """PNG with 16 bits a channel, which Pillow does not write, and its EXIF after the pixels."""
    rows = levels.astype(">u2") * 257
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"eXIf", exif[6:]), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data for kind, data in parts)
    sums = (struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(bytes.__add__, chunks, sums))


@cache
def encode_scene(
    format: str, colours: str, orientation: int, side: int = SIDE
) -> tuple[bytes, np.ndarray]:
    """File of the scene, and the levels that must come out of it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    want = levels = scene(side=side)
    options: dict[str, Any] = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
        "TIFF": {"compression": "tiff_lzw"},
    }.get(format, {})
    match colours:
        case "P3" | "Adobe":
            primaries = {"P3": icc.P3, "Adobe": icc.ADOBE}[colours]
            options["icc_profile"] = icc.of_primaries(primaries)
            levels = (icc.levels_in(primaries, levels / 255) * 255).round().astype(np.uint8)
        case "CMYK":
            options["icc_profile"] = icc.of_inks(dict(zip(INKS, PATCHES, strict=True)))
            levels = scene(np.array(INKS) * 255, side)
        case "16 bits" if format == "PNG":
            return in_16_bits(turn_back(levels, orientation), exif.tobytes()), want
        case "16 bits":
            want = grey(levels)
            levels = want[..., 0].astype(np.uint16) * 257
        case _:
            pass
    turned = turn_back(levels, orientation)
    if colours == "CMYK":
        image = Image.frombytes("CMYK", turned.shape[1::-1], turned.tobytes())
    else:
        image = Image.fromarray(turned)
    if colours == "palette":
        image = image.quantize(8)
    return as_file(image, format, exif=exif, **options), want


KINDS: Mapping[str, tuple[str, ...]] = {
    "PNG": ("sRGB", "P3", "Adobe", "16 bits", "palette"),
    "JPEG": ("sRGB", "P3", "Adobe", "CMYK"),
    "WEBP": ("sRGB", "P3", "Adobe"),
    "AVIF": ("sRGB", "P3", "Adobe"),
    "TIFF": ("sRGB", "P3", "Adobe", "CMYK", "16 bits", "palette"),
}
CELLS: list[Cell] = [
    *(
        (name, kind, turn)
        for name, kinds in KINDS.items()
        for kind in kinds
        for turn in range(1, 9)
    ),
    *(("GIF", "palette", 1), ("BMP", "sRGB", 1)),  # they have no EXIF
]


def tolerance(cell: Cell) -> int:
    """Levels of 255 by which pixels of the file may differ."""
    return 4 if cell[0] in LOSSY else 2


# Masks.


def circle() -> Image.Image:
    """Mask with soft edges: L [48, 32]."""
    away = np.hypot(*np.mgrid[-16:16, -20:28])
    return Image.fromarray((255 * (1 - (away - 8) / 6).clip(0, 1)).astype(np.uint8))


def strokes(mask: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """Strokes on nothing, as a browser's canvas has them."""
    image = Image.new("RGBA", mask.size, (*color, 0))
    image.paste(Image.new("RGBA", mask.size, (*color, 255)), mask=mask)
    nothing = Image.new("RGBA", mask.size, (0, 0, 0, 0))
    image.putalpha(mask)
    nothing.paste(image, mask=mask.point(lambda level: 255 * (level > 0)))
    return nothing


Encode = Callable[[Image.Image], Image.Image]


def canvas(color: tuple[int, int, int]) -> Encode:
    return lambda mask: strokes(mask, color)


def in_palette(mask: Image.Image) -> Image.Image:
    image = mask.convert("P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    return image


ENCODINGS: Mapping[str, Encode] = {
    "grey": lambda mask: mask,
    "colours": lambda mask: mask.convert("RGB"),
    "opaque RGBA": lambda mask: mask.convert("RGBA"),
    "palette": in_palette,
    "16 bits": lambda mask: Image.fromarray(np.asarray(mask, np.uint16) * 257),
    "white strokes on nothing": canvas((255, 255, 255)),
    "black strokes on nothing": canvas((0, 0, 0)),
    "red strokes on nothing": canvas((250, 20, 30)),
    "grey strokes on nothing": lambda mask: canvas((255, 255, 255))(mask).convert("LA"),
}
"""Files of masks in which what is selected is light, or drawn."""
