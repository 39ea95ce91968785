"""Reading image files of strangers."""

import re
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import serve_app
from darkroom.image_formats import BY_SUFFIX, FORMATS, PILLOW_NAMES
from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.images import read_alpha, read_colours, read_header, read_image

RED, GREEN = (250, 10, 10), (10, 250, 10)


def encode_image(image, format="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_refused(body, match, kind="image_load_error", **options):
    with pytest.raises(InvalidInput, match=match) as caught:
        read_image(body, "mask_url", **options)
    (problem,) = caught.value.problems
    assert (problem.loc, problem.type) == (("body", "mask_url"), kind)
    return problem.context


@pytest.mark.parametrize("format", PILLOW_NAMES)
def test_every_format_of_the_list_is_read(format):
    image = read_image(encode_image(Image.new("RGB", (8, 6), RED), format), "image_url")
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert all(abs(a - b) < 12 for a, b in zip(image.getpixel((4, 3)), RED, strict=True))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA"])
def test_other_modes_become_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    body = encode_image(Image.new("RGB", (8, 6)).convert("L").convert(mode), kind)
    assert read_image(body, "image_url").mode == "RGB"


def test_grey_values_of_16_bits_keep_their_brightness():
    levels = np.array([[0, 255, 4096, 0x8000, 0xFFFF]], np.uint16)
    read = read_image(encode_image(Image.fromarray(levels)), "image_url")
    assert [read.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 16, 128, 255]


def test_a_transparent_grey_value_of_16_bits_is_white():
    body = encode_image(
        Image.fromarray(np.array([[0x4000, 0x4001]], np.uint16)), transparency=0x4000
    )
    read = read_image(body, "image_url")
    assert [read.getpixel((x, 0))[0] for x in (0, 1)] == [255, 64]


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    read = read_image(encode_image(image), "image_url")
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), RED]


def test_an_image_of_a_turned_camera_is_put_upright():
    image = Image.new("RGB", (8, 4), RED)
    exif = image.getexif()
    exif[0x0112] = 6  # turn it by 90 degrees
    assert read_image(encode_image(image, exif=exif), "image_url").size == (4, 8)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_what_else_a_camera_has_written_beside_its_turn_does_not_matter(format):
    exif = _directory(
        (0x0112, 3, struct.pack("<HH", 6, 0)),  # turn it by 90 degrees
        (0x011A, 2, b"72\0\0"),  # the resolution, as text in place of a fraction
    )
    body = encode_image(Image.new("RGB", (8, 4)), format, exif=b"Exif\0\0" + exif)
    assert read_image(body, "image_url").size == (4, 8)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"MM\0*", b"II*\0", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0\x05\0", b"MM", b"camera", b"\0\0"],
)
def test_an_image_whose_exif_is_cut_off_is_read_as_it_is(format, exif):
    body = encode_image(Image.new("RGB", (8, 4), RED), format, exif=b"Exif\0\0" + exif)
    assert read_image(body, "image_url").size == (8, 4)


def _directory(*entries):
    """TIFF directory of entries (tag, type, value of four bytes)."""
    packed = b"".join(
        struct.pack("<HHI", tag, kind, 1 if kind == 3 else 4) + value
        for tag, kind, value in entries
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize("body", [b"", b"hello", b"<html></html>", b"%PDF-1.4", b"BMW", b"II*"])
def test_what_is_no_image_is_refused(body):
    assert_refused(body, "not a supported image")


@pytest.mark.parametrize("name", ["TGA", "ICO", "JPEG2000"])
def test_a_format_that_is_not_read_is_named(name):
    body = encode_image(Image.new("RGB", (32, 32)), name)
    format_name = {"JPEG2000": "JPEG 2000"}.get(name, name)
    context = assert_refused(
        body, f"is {format_name}, which is not supported", "unsupported_image_format"
    )
    assert context == {"supported_formats": list(PILLOW_NAMES)}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("SVG", b"<svg></svg>"),
        ("SVG", b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="x">'),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0"),
        ("JPEG XL", b"\xff\x0a\0\0"),
        ("PSD", b"8BPS\0\1"),
    ],
)
def test_formats_that_are_not_read_are_known_by_their_beginning(name, body):
    assert_refused(body, f"is {name}, which is not supported", "unsupported_image_format")


def test_an_image_that_is_too_small_is_refused():
    body = encode_image(Image.new("RGB", (30, 7)))
    context = assert_refused(body, "30×7", "image_too_small", least_side=8)
    assert context == {"min_width": 8, "min_height": 8}
    assert read_image(encode_image(Image.new("RGB", (8, 8))), "image_url", 8).size == (8, 8)


def test_a_damaged_image_is_refused():
    whole = encode_image(Image.effect_noise((64, 64), 90))
    assert_refused(whole[: len(whole) // 2], "cannot be read")


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded():
    body = encode_image(Image.new("1", (20_000, 20_000)))
    assert len(body) < 100_000
    context = assert_refused(body, "more than 50000000 pixels", "image_too_large")
    assert context == {"max_pixels": 50_000_000}
    with pytest.raises(InvalidInput, match="more than 7 pixels"):
        read_alpha(encode_image(Image.new("RGB", (4, 2))), "mask", most_pixels=7)


def test_a_tile_of_a_tiff_with_too_many_pixels_is_refused_before_it_is_decoded():
    sizes = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000}
    sizes |= {324: 150, 325: 9}  # place and length of the tile
    tags = [(tag, 3, struct.pack("<HH", value, 0)) for tag, value in sizes.items()]
    assert_refused(_directory(*tags) + bytes(99), "more than 50000000 pixels", "image_too_large")


def test_a_compression_that_takes_as_much_memory_as_it_claims_is_refused():
    body = encode_image(Image.new("RGB", (8, 8)), "TIFF", compression="lzma")
    assert_refused(body, "compression 34925 is not supported. Use LZW or Deflate")


@pytest.mark.long
def test_a_jpeg_of_many_scans_is_refused_and_one_that_programs_write_is_not():
    whole = encode_image(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert_refused(whole[:last] + whole[last:-2] * 200 + whole[-2:], "scans, too many for its size")
    large = encode_image(Image.new("RGB", (9000, 5500)), "JPEG", progressive=True)
    assert read_header(large, "image").width == 9000


def test_what_looks_like_scans_in_a_jpeg_s_notes_or_in_the_film_after_it_is_none():
    film = b"\xff\xda" * 5000
    noted = encode_image(Image.new("RGB", (3000, 3000)), "JPEG", comment=film)
    assert read_header(noted + film, "image").width == 3000


def test_floating_point_levels_are_refused_rather_than_read_as_black():
    assert_refused(encode_image(Image.new("F", (8, 8), 0.5), "TIFF"), "32 bits")


def test_a_header_has_what_is_shown():
    exif = Image.Exif()
    exif[0x0112] = 8
    header = read_header(encode_image(Image.new("RGBA", (8, 4)), "WEBP", exif=exif), "image")
    assert (header.width, header.height) == (4, 8)
    assert (header.media_type, header.has_alpha) == ("image/webp", True)


def test_a_jpeg_of_several_images_is_a_jpeg():
    body = encode_image(Image.new("RGB", (8, 4)), "MPO", save_all=True)
    assert read_header(body, "image").media_type == "image/jpeg"


@pytest.mark.parametrize("read", [read_alpha, read_colours])
def test_the_ingress_decodes_no_frames_that_may_be_larger_than_their_header_says(read):
    with pytest.raises(InvalidInput, match="use a PNG file"):
        read(encode_image(Image.new("RGBA", (8, 8)), "AVIF"), "mask")


def test_browsers_show_what_is_read_but_tiff():
    page = Path(serve_app.__file__).with_name("page") / "interface" / "image_types.js"
    (kinds,) = re.findall(r"image.{2}\(\?:([a-z|]+)\)", page.read_text())
    shown = {f"image/{kind}" for kind in kinds.split("|")}
    assert shown == {image_format.media_type for image_format in FORMATS} - {"image/tiff"}


def test_every_format_has_suffixes():
    assert {Image.MIME[Image.registered_extensions()[suffix]] for suffix in BY_SUFFIX} == {
        image_format.media_type for image_format in FORMATS
    }
