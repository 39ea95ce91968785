"""Reading of image files, by everything that reads any: the ingress, replicas, executors and apps.

A file is decoded by its role. An image is upright as its EXIF says, in sRGB by its ICC profile or
its codes, and on white where it is transparent. A mask is upright, and its levels are data, not
colours. Of a file with several images, the first counts. Reading a header decodes no pixels.

Decode on a thread: a large image takes tens of milliseconds. This needs Pillow 10.3 or later.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_CUR, BytesIO
from typing import Any, BinaryIO, cast

from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

from darkroom.cicp import coded_profile
from darkroom.image_formats import FORMATS, NAMES, PILLOW_NAMES, other_format

MAX_PIXELS = 50_000_000
MAX_SCANNED_PIXELS = 1_000_000_000
"""Pixels that a JPEG decodes, in all its scans. A scan of some hundred bytes decodes the whole
image, and nothing can end it. Of 50 megapixels there may be 20 scans; programs write about 10."""
MAX_PROFILE_BYTES = 4 * 2**20
"""Larger ICC profiles are ignored. Those of printing presses have about 2 MB."""

UNSUPPORTED = "unsupported_image_format"


class ImageError(ValueError):
    """An image is not read, because of what its file is."""

    def __init__(
        self, message: str, type: str = "image_load_error", context: dict[str, Any] | None = None
    ) -> None:
        """``type``: fal's type of the error. ``context``: limits that it breaks, by fal's names."""
        super().__init__(message)
        self.message = message
        self.type = type
        self.context = context


_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    struct.error,
)
"""What Pillow's decoders raise for damaged files."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the beginning of a file says about its image."""

    media_type: str
    width: int  # pixels, as shown: of the upright image
    height: int
    has_alpha: bool


def read_header(file: BinaryIO) -> ImageHeader:
    """Read the header of an image. Raises ``ImageError``."""
    with _open_image(file) as image:
        return _header(image, file)


def read_image(
    file: BinaryIO,
    *,
    least_side: int = 1,
    most_pixels: int = MAX_PIXELS,
    on_white: bool = True,
    small: bool = False,
) -> Image.Image:
    """Decode an image as RGB. Raises ``ImageError``.

    ``least_side``: minimum pixels of each side. ``on_white``: transparent parts are white, and not
    of the colours that the file has there. ``small``: for a small image of it, so a large JPEG is
    read at a fraction of its size.
    """
    with _open_image(file, least_side, most_pixels, small=small) as image:
        return _flat(image, on_white=on_white)


def read_transparent(file: BinaryIO, *, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image as RGBA. Raises ``ImageError``."""
    with _open_image(file, most_pixels=most_pixels) as image:
        colours, alpha = _colours_and_alpha(image)
    colours.putalpha(255 if alpha is None else alpha)
    return colours


def read_alpha(file: BinaryIO, *, most_pixels: int = MAX_PIXELS) -> Image.Image | None:
    """Decode the alpha channel of an image as L. None if it has none. Raises ``ImageError``."""
    with _open_image(file, most_pixels=most_pixels) as image:
        upright = _upright(image)
        return upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None


def read_mask(
    file: BinaryIO, *, least_side: int = 1, note: Callable[[str], None] | None = None
) -> Image.Image:
    """Decode a mask as L: white is selected. Raises ``ImageError``.

    Of a mask without transparency, its grey levels. With transparency, it is strokes on nothing:
    the strokes are selected, in any colour, as far as they are opaque. If what is opaque has both
    dark and light levels, they count too, and ``note`` gets a sentence on it.
    """
    with _open_image(file, least_side) as image:
        mask, clear = _mask(image)
    if note is not None and clear:
        note(
            "the mask has transparent parts, and opaque parts that are dark and light. "
            "The light and opaque ones were selected. Send a mask without transparency."
        )
    if note is not None and not mask.getbbox():
        note("the mask selects nothing. Selected parts are white.")
    return mask


@contextmanager
def _open_image(
    file: BinaryIO, least_side: int = 1, most_pixels: int = MAX_PIXELS, *, small: bool = False
) -> Generator[Image.Image]:
    """Open an image within the limits, whose pixels the block may decode."""
    try:
        # Oddities of a file are not the operator's matter, and our limits are below Pillow's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=PILLOW_NAMES) as image:
                if small:
                    image.draft("RGB", (1024, 1024))
                if _pixels(image) > most_pixels:
                    raise _too_large(most_pixels)
                _check_work(image, file)
                if "icc_profile" not in image.info:
                    image.info["icc_profile"] = coded_profile(file, image.format)
                if min(image.size) < least_side:
                    raise _too_small(_header(image, file), least_side)
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        file.seek(0)
        if (name := other_format(file.read(_PIECE))) is None:
            raise ImageError(f"the file is not a supported image ({NAMES})") from None
        message = f"the image is {name}, which is not supported: use {NAMES}"
        known = {"supported_formats": list(PILLOW_NAMES)}
        raise ImageError(message, UNSUPPORTED, known) from None
    except Image.DecompressionBombError:
        raise _too_large(most_pixels) from None
    except _DAMAGED as error:
        raise ImageError(f"the image cannot be read: {error}") from error


def _pixels(image: Image.Image) -> int:
    """Pixels that decoding takes memory for."""
    tags = _tags(image)
    tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0)  # it may be larger than the image
    return max(image.width * image.height, tile if isinstance(tile, int) else 0)


_COMPRESSION, _TILE_WIDTH, _TILE_LENGTH = 259, 322, 323  # tags of TIFF 6.0
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Tags of an opened TIFF."""
    return getattr(image, "tag_v2", {})


# Markers of JPEG (ITU-T T.81, B.1.1.3): not 0xff as a value in a scan, which a zero follows, and no
# restart inside of a scan.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_SCAN, _END, _ALONE = 0xDA, 0xD9, frozenset({0x01, 0xD8})  # the last have no length
_PIECE = 2**16  # bytes


def _check_work(image: Image.Image, file: BinaryIO) -> None:
    """Raise ``ValueError`` for a file that takes much more than its pixels say: for what is unusual
    in TIFF, as LZMA takes as much memory as it claims, and for a JPEG of many scans."""
    if (compression := _tags(image).get(_COMPRESSION, 1)) not in _COMPRESSIONS:
        raise ValueError(f"its compression {compression} is not supported. Use LZW or Deflate")
    if image.format in ("JPEG", "MPO"):
        scans = _scans(file)
        if scans * _pixels(image) > MAX_SCANNED_PIXELS:
            raise ValueError(f"it has {scans} scans, too many for its size. Save it again")


def _scans(file: BinaryIO) -> int:
    """Number of scans of the first image in a JPEG file, which is left at its position. What stands
    in its other segments, or after it, may look like one: a film, for example."""
    place, count = file.tell(), 0
    file.seek(0)
    while (marker := _next_marker(file)) not in (None, _END):
        count += marker == _SCAN
        if marker not in _ALONE:
            length = int.from_bytes(file.read(2), "big")
            file.seek(max(length - 2, 0), SEEK_CUR)
    file.seek(place)
    return count


def _next_marker(file: BinaryIO) -> int | None:
    """The next marker, behind which the file then is; None: there is none."""
    last = b""
    while piece := file.read(_PIECE):
        looked = last + piece
        if (marker := _MARKER.search(looked)) is not None:
            file.seek(marker.end() - len(looked), SEEK_CUR)
            return marker[1][0]
        last = looked[-1:]
    return None


def _too_small(header: ImageHeader, least_side: int) -> ImageError:
    size = f"{header.width}×{header.height}"
    message = f"the image is {size} pixels; each side must have at least {least_side}"
    return ImageError(
        message, "image_too_small", {"min_width": least_side, "min_height": least_side}
    )


def _too_large(most_pixels: int) -> ImageError:
    message = f"the image has more than {most_pixels} pixels"
    return ImageError(message, "image_too_large", {"max_pixels": most_pixels})


def _header(image: Image.Image, file: BinaryIO) -> ImageHeader:
    if image.format == "PNG" and "exif" not in image.info:
        image.info["exif"] = _late_exif(file)
    width, height = turned_size(image.size, _turn(image))
    # A JPEG of several images has a name of its own in Pillow.
    media_type = _MEDIA_TYPES.get(image.format or "", "image/jpeg")
    return ImageHeader(media_type, width, height, image.has_transparency_data)


_MEDIA_TYPES = {name: fmt.media_type for name, fmt in zip(PILLOW_NAMES, FORMATS, strict=True)}
MAX_CHUNKS = 20_000


def _late_exif(file: BinaryIO) -> bytes:
    """EXIF after the pixels of a PNG, where ExifTool writes it. Pillow reads it with the pixels."""
    file.seek(8)
    for _ in range(MAX_CHUNKS):
        length, name = int.from_bytes(file.read(4)), file.read(4)
        if name == b"eXIf":
            return b"Exif\0\0" + file.read(length)
        if len(name) < 4:
            break
        file.seek(length + 4, SEEK_CUR)
    return b""


# Orientation.

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
_ACROSS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}


def turned_size(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    """Width and height of an image of this size after a turn."""
    width, height = size
    return (height, width) if turn in _ACROSS else size


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Turn that the EXIF of an opened image asks for. Pillow itself turns TIFF.

    ``ImageOps.exif_transpose`` also writes the other tags anew, and raises ``TypeError`` or
    ``struct.error`` for one that a camera has stored with another type. Like browsers, this does
    not look for an orientation in XMP.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        return _TURNS.get(exif.get(_ORIENTATION))
    except (struct.error, TypeError, SyntaxError, ValueError, OSError):
        return None  # its EXIF is damaged or cut off, but its pixels can be read


def _upright(image: Image.Image) -> Image.Image:
    """Decode an opened image: of 8 bits, and turned as its EXIF says."""
    image.load()
    turn, levels = _turn(image), _in_8_bits(image)
    return levels if turn is None else levels.transpose(turn)


# Colours.


def _flat(image: Image.Image, *, on_white: bool = True) -> Image.Image:
    """An opened image as RGB."""
    colours, alpha = _colours_and_alpha(image)
    return colours if alpha is None or not on_white else put_on_white(colours, alpha)


def _colours_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours of an opened image as RGB, and its alpha channel, if it has any."""
    upright = _upright(image)
    alpha = None
    if upright.has_transparency_data:
        upright = upright.convert("LA" if upright.mode in _FROM["L"] else "RGBA")
        alpha = upright.getchannel("A")
    return _in_srgb(upright, image.info.get("icc_profile")), alpha


def put_on_white(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Image as RGB, as it is seen before white."""
    white = Image.new("RGB", colours.size, (255, 255, 255))
    white.paste(colours, mask=alpha)
    return white


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Halve the bits of grey values of 16 bits, of which Pillow makes white when it converts them.

    It halves those of colours itself.
    """
    if image.mode in ("I", "F"):
        raise ValueError("its values have 32 bits. Convert it to 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    levels = image.convert("I")
    grey = levels.point([level >> 8 for level in range(1 << 16)], "L")
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(levels.point([255 * (level != clear) for level in range(1 << 16)], "L"))
    return grey


_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Mode of the colours that a profile describes, by ICC's name."""

_FROM = {"L": ("1", "L", "LA", "La"), "CMYK": ("CMYK",)}
"""Modes of images to which a profile of other than RGB can belong."""

NEAR = 2  # levels of 255 that a profile of sRGB differs from another one by


def _in_srgb(image: Image.Image, profile: object) -> Image.Image:
    """``image`` as RGB, converted to sRGB from its ICC profile.

    A profile is ignored if it is broken, too large, or of another kind of colours than the image.
    One that is sRGB itself leaves the levels as they are.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE_BYTES:
        return image.convert("RGB")
    try:
        source: Any = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space)
        if mode is None or image.mode not in _FROM.get(mode, (image.mode,)):
            return image.convert("RGB")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = Image.frombytes("RGB", (729, 1), _GRID).convert(mode)
        change = ImageChops.difference(
            probe.convert("RGB"), _apply_transform(probe, transform)
        ).getextrema()
        if all(most <= NEAR for _, most in cast("tuple[tuple[int, int], ...]", change)):
            return image.convert("RGB")
        return _apply_transform(image.convert(mode), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")


_SHADES = range(0, 256, 31)
_GRID = bytes(level for r in _SHADES for g in _SHADES for b in _SHADES for level in (r, g, b))
"""729 colours all over the cube."""


def _apply_transform(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise TypeError("The image was to be converted into a new one.")
    return converted


# Masks.

MIXED = 64
"""Levels between the darkest and the lightest of strokes of one colour, at most."""

SOLID = 128  # alpha from which on the colour of a stroke is exact


def _mask(image: Image.Image) -> tuple[Image.Image, bool]:
    """Mask of an opened image, and whether its transparency is ambiguous."""
    upright = _upright(image)
    if not upright.has_transparency_data:
        return upright.convert("L"), False
    upright = upright.convert("RGBA")
    grey, alpha = upright.convert("L"), upright.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return grey, False
    solid = alpha.point([255 * (level >= SOLID) for level in range(256)])
    levels = [level for level, count in enumerate(grey.histogram(solid)) if count]
    if not levels or levels[-1] - levels[0] <= MIXED:
        return alpha, False
    return ImageChops.multiply(grey, alpha), True
