"""The same picture in any format, turn and kind of colours is read as the same pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

import darkroom
from serve_app.domain.media.images import read_header, read_image, read_mask
from tests.domain.media import icc, pictures
from tests.domain.media.pictures import (
    CELLS,
    ENCODINGS,
    as_file,
    canvas,
    circle,
    encode_scene,
    tolerance,
)
from tests.samples import sample_params


@pytest.mark.parametrize(
    "cell",
    sample_params(
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
def test_the_same_picture_is_the_same_pixels_and_shape(cell, tmp_path):
    body, want = encode_scene(*cell)
    header = read_header(body, "image_url")
    assert (header.width, header.height) == (48, 32)
    assert header.media_type == f"image/{cell[0].lower()}"
    levels = np.asarray(read_image(body, "image_url"), int)
    assert levels.shape == (32, 48, 3)
    assert abs(levels - want).max() <= tolerance(cell)
    mask = read_mask(body, "mask_url")
    assert mask.size == (48, 32)  # it has a turn of its own
    (tmp_path / "picture").write_bytes(body)
    of_an_app = darkroom.Image(tmp_path / "picture")
    assert (np.asarray(of_an_app.open()) == levels).all()
    assert of_an_app.open("RGBA").getchannel("A").getextrema() == (255, 255)
    assert (np.asarray(of_an_app.open_mask()) == np.asarray(mask)).all()


def test_colours_of_a_display_with_more_of_them_are_not_paler():
    assert read_colour(icc.of_primaries(icc.P3)) == pytest.approx((197, 70, 70), abs=3)


def read_colour(profile):
    """Colour that is read in place of (181, 80, 76)."""
    body = as_file(Image.new("RGB", (8, 8), (181, 80, 76)), "TIFF", icc_profile=profile)
    return read_image(body, "image_url").getpixel((4, 4))


def with_codes(image, format, primaries, transfer):
    """File of an image whose colours are described by codes alone."""
    if format == "AVIF":
        body = as_file(image, format, quality=100, subsampling="4:4:4")
        parts = body.partition(b"colrnclx\0\x01\0\x0d")
        return parts[0] + struct.pack(">8sHH", b"colrnclx", primaries, transfer) + parts[2]
    body, kind = as_file(image, format), b"cICP" + bytes((primaries, transfer, 0, 1))
    after = 33  # the signature and the first chunk
    return body[:after] + struct.pack(">I8sI", 4, kind, zlib.crc32(kind)) + body[after:]


@pytest.mark.parametrize("format", ["PNG", "AVIF"])
@pytest.mark.parametrize(
    ("primaries", "codes"),
    [(icc.P3, (12, 13)), (icc.P3, (12, 1)), (icc.BT2020, (9, 13)), (icc.BT2020, (9, 1))],
)
def test_colours_described_by_codes_are_read_as_with_a_profile(format, primaries, codes):
    shown = pictures.scene()
    levels = (icc.coded_levels(primaries, codes[1], shown / 255) * 255).round().astype(np.uint8)
    assert abs(levels - shown.astype(int)).max() > 10
    read = read_image(with_codes(Image.fromarray(levels), format, *codes), "image_url")
    assert abs(np.asarray(read, int) - shown).max() <= 4


@pytest.mark.parametrize("codes", [(1, 13), (1, 1), (9, 16), (12, 255), (2, 2)])
def test_codes_of_srgb_or_of_something_else_change_no_level(codes):
    body = with_codes(Image.fromarray(pictures.scene()), "PNG", *codes)
    assert (np.asarray(read_image(body, "image_url")) == pictures.scene()).all()


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
    assert read_colour(profile) == (181, 80, 76)


def test_a_profile_of_srgb_changes_no_level():
    whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = Image.effect_noise((64, 64), 90)
    picture = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    read = read_image(as_file(picture, icc_profile=whole), "image_url")
    assert read.tobytes() == picture.tobytes()


# Masks.


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
