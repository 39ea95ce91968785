"""Picture files to pictures, with nothing trusted: neither what they claim to be nor their size."""

from __future__ import annotations

import warnings
from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from serve_app.domain.errors import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MOST_PIXELS = 50_000_000


def read_picture(body: bytes, field: str) -> Image.Image:
    """The picture as RGB, upright, what is transparent in it white; of several the first.

    ``InvalidInput`` that names the field.
    """
    try:
        with warnings.catch_warnings():
            # Our own limit is below the one at which Pillow begins to warn.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(body), formats=FORMATS) as opened:
                _check_size(opened, field)
                picture = ImageOps.exif_transpose(opened)
                return _on_white(picture)
    except UnidentifiedImageError:
        message = f"the file is no picture that is read here ({', '.join(FORMATS)})"
    except Image.DecompressionBombError:
        message = f"the picture has more than {MOST_PIXELS} pixels"
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's decoders raise all of these for damaged files.
        message = f"the picture cannot be read: {error}"
    raise InvalidInput.of_field(field, message, "image_load_error")


def _check_size(picture: Image.Image, field: str) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        message = f"the picture has more than {MOST_PIXELS} pixels"
        raise InvalidInput.of_field(field, message, "image_too_large")


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
