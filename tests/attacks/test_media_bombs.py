"""Small files of large images, long videos and audio: refused, or read within bounds, while others
go on."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from serve_app.ingress.http.paths import COMFYUI_PREFIX, OPENAI_PREFIX
from tests.attacks.attempts import Attempts
from tests.attacks.bystander import watch_bystander
from tests.attacks.scene import Scene, outcome
from tests.attacks.test_bombs import fine, time_request
from tests.attacks.test_forged_requests import PROMPT, REDRAW
from tests.attacks.test_hostile_weights import upload_file
from tests.engine.media.test_audio_reading import audio, m4a, wav
from tests.engine.media.test_video_reader import claiming, fragment, video

pytestmark = [pytest.mark.cluster, pytest.mark.long]

MIB = 2**20
MOST_GROWTH = 1500 * MIB
"""A replica may decode an image of 50 megapixels, and each of its two slots one."""


def chunk(kind: bytes, content: bytes) -> bytes:
    sum_ = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + sum_


def zeros(size: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(9)
    piece = bytes(MIB)
    packed = [packer.compress(piece) for _ in range(size // MIB)]
    return b"".join([*packed, packer.compress(bytes(size % MIB)), packer.flush()])


def png(width: int, height: int, *more: bytes, colours: int = 0, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def gif(width: int, height: int, frames: int) -> bytes:
    """Each frame is of one pixel."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame * frames + b"\x3b"


def tiff(width: int, height: int) -> bytes:
    packed = zeros(64 * MIB)
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8)),
        *((262, 3, 1, 1), (273, 4, 1, 122), (277, 3, 1, 1), (278, 4, 1, height)),
        (279, 4, 1, len(packed)),
    ]
    folder = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    return (b"II*\0" + struct.pack("<I", 8) + folder + bytes(4)).ljust(122, b"\0") + packed


def make_image(kind: str, width: int, height: int, **how: object) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height)).save(written, kind, **how)
    return written.getvalue()


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG with its last scan many times. Each decodes the whole image."""
    whole = make_image("JPEG", 4000, 4000, progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def larger_than_said(kind: str, width: int, height: int, places: Mapping[int, bytes]) -> bytes:
    """A small image whose header says another size."""
    content = bytearray(make_image(kind, width, height))
    for at, value in places.items():
        content[at : at + len(value)] = value
    return bytes(content)


SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">
<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg" width="99999"
height="99999"><text>&b;&x;</text><image href="http://127.0.0.1:%d/x"/></svg>"""


def bombs(port: int) -> Mapping[str, Callable[[], bytes]]:
    """Files by what they are."""
    return {
        "PNG of 30,000 pixels a side": lambda: png(30_000, 30_000, pixels=zeros(64 * MIB)),
        "PNG of 2^31 pixels a side": lambda: png(2**31 - 1, 2**31 - 1, pixels=zeros(MIB)),
        "PNG of one long line": lambda: png(2**31 - 1, 1, pixels=zeros(64 * MIB)),
        "PNG with a large profile": lambda: png(
            64, 64, chunk(b"iCCP", b"x\0\0" + zeros(256 * MIB)), pixels=zeros(64 * 65)
        ),
        "PNG with a large text": lambda: png(
            64, 64, chunk(b"zTXt", b"x\0\0" + zeros(256 * MIB)), pixels=zeros(64 * 65)
        ),
        "PNG with many texts": lambda: png(
            64, 64, *[chunk(b"tEXt", b"x\0y")] * 200_000, pixels=zeros(64 * 65)
        ),
        "PNG with more than its pixels": lambda: png(64, 64, pixels=zeros(256 * MIB)),
        "APNG of many frames": lambda: png(
            64,
            64,
            chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
            *[chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0))] * 50_000,
            pixels=zeros(64 * 65),
        ),
        "GIF of 65,535 pixels a side": lambda: gif(65_535, 65_535, 1),
        "GIF of 100,000 frames": lambda: gif(64, 64, 100_000),
        "WebP of 16,383 pixels a side": lambda: larger_than_said(
            "WEBP", 64, 64, {26: struct.pack("<HH", 16383, 16383)}
        ),
        "TIFF of 60,000 pixels a side": lambda: tiff(60_000, 60_000),
        "TIFF of 2^32 pixels a side": lambda: tiff(2**32 - 1, 2**32 - 1),
        "BMP of 2^31 pixels a side": lambda: larger_than_said(
            "BMP", 64, 64, {18: struct.pack("<ii", 2**31 - 1, 2**31 - 1)}
        ),
        "BMP of less than none": lambda: larger_than_said(
            "BMP", 64, 64, {18: struct.pack("<ii", 64, -(2**31))}
        ),
        "JPEG of 65,500 pixels a side": lambda: make_image("JPEG", 640, 640).replace(
            b"\x08\x02\x80\x02\x80", b"\x08\xff\xdc\xff\xdc"
        ),
        "JPEG of many scans": lambda: jpeg_of_scans(200),
        "AVIF of 65,536 pixels a side": lambda: make_image("AVIF", 64, 64).replace(
            struct.pack(">II", 64, 64), struct.pack(">II", 65_536, 65_536)
        ),
        "SVG": lambda: SVG % port,
        "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd)(r)file\n",
        "PDF": lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "ICO": lambda: b"\0\0\1\0\xff\xff" + b"\0" * 16 * 1000,
        "a playlist": lambda: (
            b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:%d/x\n#EXT-X-ENDLIST\n" % port
        ),
        "a list of files": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    }


def some(port: int, one_of: int) -> Iterator[tuple[str, bytes]]:
    for what, build in [*bombs(port).items()][::one_of]:
        yield what, build()


ONE_OF = pytest.mark.parametrize("one_of", [12, pytest.param(1, marks=pytest.mark.long)])
"""A short run tries one of so many."""


@ONE_OF
def test_images_of_inputs(scene: Scene, attempts: Attempts, one_of: int) -> None:
    """Read by a replica."""
    with (
        watch_bystander(scene, attempts, most_growth=MOST_GROWTH),
        scene.client(scene.attacker["admin"]) as http,
    ):
        sent: dict[str, str] = {}
        for what, content in some(scene.inside.port, one_of):
            url = upload_file(http, content, "x.png").json()["file_url"]
            body = PROMPT | {"image_url": url, "strength": 1.0}
            answer = http.post(f"/queue/{REDRAW}", json=body)
            assert answer.is_success, answer.text
            sent[what] = answer.json()["request_id"]
        for what, request_id in sent.items():
            ended = outcome(http, request_id)
            error = ended["error"] or {}
            is_safe = ended["state"] == "succeeded" or error.get("code") == "invalid_input"
            attempts.note(f"{what}: {ended['state']} {error}", held=is_safe)


def patch_bytes(body: bytes, name: bytes, behind: int, value: bytes) -> bytes:
    """A file with another value, so far behind the last place with this name."""
    at = body.rindex(name) + len(name) + behind
    return body[:at] + value + body[at + len(value) :]


def films(folder: Path, port: int) -> Mapping[str, Callable[[], bytes]]:
    """Videos by what they are."""

    def mp4(name: bytes, behind: int, *numbers: int) -> Callable[[], bytes]:
        value = struct.pack(f">{len(numbers)}I", *numbers)
        return lambda: patch_bytes(video(folder), name, behind, value)

    def webm(name: bytes, value: bytes) -> Callable[[], bytes]:
        return lambda: patch_bytes(video(folder, "video/webm"), name, 0, value)

    def of_large_frames() -> bytes:
        """Each is compressed to some bytes, and shown for a hundredth of a second."""
        control = b"\x21\xf9\x04\0\x01\0\0\0"
        frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
        return gif(4000, 4000, 1)[:-1] + (control + frame) * 1000 + b"\x3b"

    images = bombs(port)
    return {
        "MP4 of 50 million samples": lambda: claiming(video(folder), 50_000_000),
        "MP4 of one sample of 4 GB": lambda: claiming(video(folder), 1, 2**32 - 1),
        "MP4 with 50 million samples behind": lambda: video(folder) + fragment(50_000_000),
        "MP4 of 60,000 pixels a side": mp4(b"avc1", 24, 60_000 << 16 | 60_000),
        "MP4 of 4,000 pixels a side": mp4(b"avc1", 24, 4000 << 16 | 4000),
        "MP4 that is shown at another size": mp4(b"tkhd", 76, 2**32 - 1, 2**32 - 1),
        "MP4 that is shown as a line": mp4(b"tkhd", 76, 2**32 - 1, 1),
        "MP4 of a century": mp4(b"mvhd", 12, 1, 2**32 - 1),
        "MP4 whose frames are shown for years": mp4(b"stts", 8, 8, 2**31 - 1),
        "MP4 of billions of frames a second": mp4(b"mdhd", 12, 2**31 - 1, 8),
        "MP4 without a clock": mp4(b"mdhd", 12, 0, 0),
        "MP4 that begins behind its end": mp4(b"stco", 8, 2**32 - 1),
        "MP4 of many boxes": lambda: (
            video(folder)
            + b"".join(struct.pack(">I", 8 * n) + b"moov" for n in range(50_000, 0, -1))
        ),
        "WebM without an end": webm(b"\x18\x53\x80\x67", b"\x01" + b"\xff" * 7),
        "WebM of ages": webm(b"\x44\x89\x88", struct.pack(">d", 1e300)),
        "WebM without a clock": webm(b"\x2a\xd7\xb1\x83", bytes(3)),
        "WebM with a long name": webm(b"\x4d\x80", b"\x08\xff\xff\xff\xf0"),
        "GIF of large frames": of_large_frames,
        **{
            name: images[name]
            for name in ("GIF of 65,535 pixels a side", "GIF of 100,000 frames", "SVG")
        },
        **{name: images[name] for name in ("a playlist", "a list of files")},
    }


def recordings(folder: Path, port: int) -> Mapping[str, Callable[[], bytes]]:
    """Audio by what it is."""

    def flac(value: bytes) -> Callable[[], bytes]:
        return lambda: patch_bytes(audio(folder, "audio/flac", seconds=0.2), b"fLaC", 0, value)

    def facts(rate: int, samples: int) -> bytes:
        """Of a FLAC file: blocks of 65,535 samples, 8 channels of 32 bits."""
        numbers = rate << 44 | 7 << 41 | 31 << 36 | samples
        return struct.pack(">IHH", 34, 2**16 - 1, 2**16 - 1) + bytes(6) + numbers.to_bytes(8, "big")

    def said_in_wav(at: int, value: bytes) -> Callable[[], bytes]:
        def build() -> bytes:
            whole = wav(8_000)
            return whole[:at] + value + whole[at + len(value) :]

        return build

    page = b"OggS\0\2" + bytes(8) + b"%s" + bytes(8) + b"\1\0"
    images = bombs(port)
    return {
        "WAV of two billion samples a second": lambda: wav(2**31 - 1),
        "WAV of one sample a second": lambda: wav(1),
        "WAV of 4 GB": said_in_wav(40, b"\xff" * 4),
        "WAV of 65,535 channels": said_in_wav(22, b"\xff\xff"),
        "WAV of large blocks": said_in_wav(32, b"\xff\xff\xff\xff"),
        "FLAC of 68 billion samples": flac(facts(44_100, 2**36 - 1)),
        "FLAC of a million samples a second": flac(facts(2**20 - 1, 2**36 - 1)),
        "FLAC of one sample a second": flac(facts(1, 2**36 - 1)),
        "FLAC with a large picture": lambda: b"fLaC\x06" + b"\xff" * 3 + b"\0" * 100,
        "MP3 with a large tag": lambda: (
            b"ID3\x04\0\0\x7f\x7f\x7f\x7fTIT2\x7f\x7f\x7f\x7f\0\0" + bytes(1000)
        ),
        "MP3 of four billion frames": lambda: patch_bytes(
            audio(folder, "audio/mpeg", seconds=0.5), b"Info", 0, b"\0\0\0\x07" + b"\xff" * 8
        ),
        "Ogg of 50,000 streams": lambda: b"".join(
            page % struct.pack("<I", number) for number in range(50_000)
        ),
        "M4A of 50 million samples": lambda: claiming(m4a(folder), 50_000_000),
        "M4A of large samples": lambda: claiming(m4a(folder), 1_000_000, 2**31 - 1),
        "WebM without an end": lambda: b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 7 + bytes(100),
        **{name: images[name] for name in ("a playlist", "a list of files")},
    }


MEDIA = (
    ("test/watches", "video_url", films),
    ("test/listens", "audio_url", recordings),
)


@pytest.mark.parametrize("one_of", [6, pytest.param(1, marks=pytest.mark.long)])
def test_videos_and_audio_of_inputs(
    scene: Scene, attempts: Attempts, tmp_path: Path, one_of: int
) -> None:
    """Read by a replica, as far as a model would."""
    with (
        watch_bystander(scene, attempts, most_growth=MOST_GROWTH),
        scene.client(scene.attacker["admin"]) as http,
    ):
        sent: dict[str, str] = {}
        for endpoint, field, files in MEDIA:
            for what, build in [*files(tmp_path, scene.inside.port).items()][::one_of]:
                url = upload_file(http, build(), "x.bin").json()["file_url"]
                answer = http.post(f"/queue/{endpoint}", json={field: url})
                assert answer.is_success, answer.text
                sent[f"{field}: {what}"] = answer.json()["request_id"]
        for what, request_id in sent.items():
            ended = outcome(http, request_id)
            error = ended["error"] or {}
            is_safe = ended["state"] == "succeeded" or error.get("code") == "invalid_input"
            attempts.note(f"{what}: {ended['state']} {error}", held=is_safe)


@ONE_OF
def test_images_that_the_ingress_reads(scene: Scene, attempts: Attempts, one_of: int) -> None:
    """Of edits with a mask, of ComfyUI's masks, and of the check of signatures."""
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        for what, content in some(scene.inside.port, one_of):
            edit = {"image": ("a.png", content), "mask": ("b.png", content)}
            fields = {"model": REDRAW, "prompt": "x"}
            response = time_request(
                http, "POST", f"{OPENAI_PREFIX}/images/edits", files=edit, data=fields
            )
            attempts.note(f"edit with {what}: {response}", held=fine(response))
            place = f"{COMFYUI_PREFIX}/upload/image"
            response = time_request(http, "POST", place, files={"image": ("a.png", content)})
            attempts.note(f"ComfyUI's image {what}: {response}", held=fine(response))
            reference = {"original_ref": '{"filename":"a.png","type":"input","subfolder":""}'}
            masked = {"image": ("b.png", content)}
            place = f"{COMFYUI_PREFIX}/upload/mask"
            response = time_request(http, "POST", place, files=masked, data=reference)
            attempts.note(f"ComfyUI's mask {what}: {response}", held=fine(response))


@pytest.mark.long  # each is read by a process of its own
def test_images_whose_signature_is_checked(scene: Scene, attempts: Attempts) -> None:
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        for what, content in some(scene.inside.port, 1):
            for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "video/mp4"):
                headers = {"content-type": kind}
                response = time_request(
                    http, "POST", "/v1/verify", content=content, headers=headers
                )
                attempts.note(f"{what} as {kind}: {response}", held=response[0] not in (0, 500))
