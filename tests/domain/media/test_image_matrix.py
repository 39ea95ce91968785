"""The same picture in any format, turn and kind of colours is read as the same pixels."""

from __future__ import annotations

import itertools
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from serve_app.domain.media.images import read_header, read_image, read_mask
from tests.domain.media import icc
from tests.samples import sampled

PATCHES = ((190, 90, 90), (100, 170, 100), (90, 110, 180), (255, 255, 255))
INKS = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0))
SIDE = 16  # of a patch: a block of JPEG with halved colours
PLACES = np.array([[0, 1, 3], [2, 3, 3]])  # of the patches; it looks different after any turn
LOSSY = ("JPEG", "AVIF")  # at their best quality too


def as_file(image, format="PNG", **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def scene(patches=PATCHES):
    """Patches as an array: uint8 [32, 48, channels]."""
    return np.array(patches, np.uint8)[PLACES].repeat(SIDE, 0).repeat(SIDE, 1)


def grey(levels):
    """What is left of colours in grey: uint8 [h, w, 3]."""
    return np.asarray(Image.fromarray(levels).convert("L").convert("RGB"))


def stored(levels, orientation):
    """What a camera stores that is held so: ``levels`` turned the other way."""
    mirrored, turns = {
        1: (False, 0), 2: (True, 0), 3: (False, 2), 4: (True, 2),
        5: (True, 3), 6: (False, 1), 7: (True, 1), 8: (False, 3),
    }[orientation]  # fmt: skip
    turned = np.rot90(levels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def in_16_bits(levels, exif):
    """PNG with 16 bits a channel, which Pillow does not write, and its EXIF after the pixels."""
    rows = levels.astype(">u2") * 257
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"eXIf", exif[6:]), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data for kind, data in parts)
    sums = (struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(bytes.__add__, chunks, sums))


def written(format, colours, orientation):
    """File of the scene, and the levels that must come out of it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    want = levels = scene()
    options = {
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
            levels = scene(np.array(INKS) * 255)
        case "16 bits" if format == "PNG":
            return in_16_bits(stored(levels, orientation), exif.tobytes()), want
        case "16 bits":
            want = grey(levels)
            levels = want[..., 0].astype(np.uint16) * 257
        case _:
            pass
    turned = stored(levels, orientation)
    if colours == "CMYK":
        image = Image.frombytes("CMYK", turned.shape[1::-1], turned.tobytes())
    else:
        image = Image.fromarray(turned)
    if colours == "palette":
        image = image.quantize(8)
    return as_file(image, format, exif=exif, **options), want


KINDS = {
    "PNG": ("sRGB", "P3", "Adobe", "16 bits", "palette"),
    "JPEG": ("sRGB", "P3", "Adobe", "CMYK"),
    "WEBP": ("sRGB", "P3", "Adobe"),
    "AVIF": ("sRGB", "P3", "Adobe"),
    "TIFF": ("sRGB", "P3", "Adobe", "CMYK", "16 bits", "palette"),
}
CELLS = [
    (name, colours, orientation)
    for name, kinds in KINDS.items()
    for colours, orientation in itertools.product(kinds, range(1, 9))
]


@pytest.mark.parametrize(
    "cell",
    sampled(
        CELLS,
        *(("PNG", "sRGB", number) for number in (2, 4, 6)),
        *(("JPEG", "sRGB", number) for number in (1, 3, 5, 6, 7, 8)),
        ("PNG", "16 bits", 6),
        ("PNG", "palette", 8),
        ("JPEG", "CMYK", 6),
        ("JPEG", "P3", 1),
        ("WEBP", "Adobe", 5),
        ("AVIF", "P3", 6),
        ("AVIF", "sRGB", 7),
        ("TIFF", "CMYK", 1),
        ("TIFF", "Adobe", 8),
        ("TIFF", "16 bits", 3),
    ),
)
def test_the_same_picture_is_the_same_pixels_and_shape(cell):
    body, want = written(*cell)
    header = read_header(body, "image_url")
    assert (header.width, header.height) == (48, 32)
    assert header.media_type == f"image/{cell[0].lower()}"
    levels = np.asarray(read_image(body, "image_url"), int)
    assert levels.shape == (32, 48, 3)
    assert abs(levels - want).max() <= (4 if cell[0] in LOSSY else 2)
    assert read_mask(body, "mask_url").size == (48, 32)  # it has a turn of its own


def test_colours_of_a_display_with_more_of_them_are_not_paler():
    assert profiled(icc.of_primaries(icc.P3)) == pytest.approx((197, 70, 70), abs=3)


def profiled(profile):
    """Colour that is read in place of (181, 80, 76)."""
    body = as_file(Image.new("RGB", (8, 8), (181, 80, 76)), "TIFF", icc_profile=profile)
    return read_image(body, "image_url").getpixel((4, 4))


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_levels_have_profiles_too(mode):
    grey = Image.new("L", (8, 8), 128).convert(mode)
    body = as_file(grey, icc_profile=icc.of_grey())
    assert read_image(body, "image_url").getpixel((4, 4)) == pytest.approx((188,) * 3, abs=1)


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        icc.of_primaries(icc.P3)[:200],
        icc.of_inks({}),
        icc.of_primaries(icc.P3) + bytes(5 << 20),
    ],
    ids=["none", "cut off", "of another kind of colours", "of an absurd size"],
)
def test_a_profile_that_cannot_be_used_is_ignored(profile):
    assert profiled(profile) == (181, 80, 76)


def test_a_profile_of_srgb_changes_no_level():
    whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = Image.effect_noise((64, 64), 90)
    picture = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    read = read_image(as_file(picture, icc_profile=whole), "image_url")
    assert read.tobytes() == picture.tobytes()


# Masks.


def circle():
    """Mask with soft edges: L [48, 32]."""
    away = np.hypot(*np.mgrid[-16:16, -20:28])
    return Image.fromarray((255 * (1 - (away - 8) / 6).clip(0, 1)).astype(np.uint8))


def strokes(mask, color):
    """Strokes on nothing, as a browser's canvas has them."""
    image = Image.new("RGBA", mask.size, (*color, 0))
    image.paste(Image.new("RGBA", mask.size, (*color, 255)), mask=mask)
    nothing = Image.new("RGBA", mask.size, (0, 0, 0, 0))
    image.putalpha(mask)
    nothing.paste(image, mask=mask.point(lambda level: 255 * (level > 0)))
    return nothing


def canvas(color):
    return lambda mask: strokes(mask, color)


def in_palette(mask):
    image = mask.convert("P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    return image


ENCODINGS = {
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


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_masks_in_all_encodings_select_the_same(encoding):
    notes = []
    read = read_mask(as_file(ENCODINGS[encoding](circle())), "mask_url", note=notes.append)
    assert read.mode == "L"
    assert abs(np.asarray(read, int) - np.asarray(circle(), int)).max() <= 1
    assert notes == []


@pytest.mark.parametrize("turned", [lambda mask: mask, canvas((255, 255, 255))])
def test_a_binary_mask_is_black_and_white(turned):
    mask = circle().point(lambda level: 255 * (level > 127))
    expected = np.asarray(mask)
    assert (np.asarray(read_mask(as_file(mask.convert("1")), "mask_url")) == expected).all()
    assert (np.asarray(read_mask(as_file(turned(mask)), "mask_url")) == expected).all()


def test_half_opaque_strokes_select_half():
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((255, 255, 255, 128), (0, 0, 8, 16))
    read = read_mask(as_file(image), "mask_url")
    assert (read.getpixel((2, 2)), read.getpixel((12, 2))) == (128, 0)


def test_a_mask_turns_by_its_own_exif_and_has_no_colours():
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = Image.new("L", (48, 32))
    mask.paste(90, (0, 0, 24, 32))
    profile = icc.of_primaries(icc.P3)
    read = read_mask(as_file(mask, exif=exif, icc_profile=profile), "mask_url")
    assert read.size == (32, 48)
    assert (read.getpixel((4, 4)), read.getpixel((4, 40))) == (90, 0)


def test_a_mask_that_may_mean_two_things_is_said_in_the_requests_log():
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    image.paste((255, 255, 255, 255), (0, 0, 8, 16))
    image.paste((255, 255, 255, 0), (0, 8, 16, 16))
    notes = []
    read = read_mask(as_file(image), "mask_url", note=notes.append)
    assert [read.getpixel(at) for at in ((2, 2), (12, 2), (2, 12))] == [255, 0, 0]
    assert len(notes) == 1
    assert "transparent parts" in notes[0]


def test_a_mask_that_selects_nothing_is_said_in_the_requests_log():
    notes = []
    read_mask(as_file(Image.new("L", (16, 16))), "mask_url", note=notes.append)
    assert notes == ["mask_url: the mask selects nothing. Selected parts are white."]
