"""Valid files that are damaged: small ones of every format, made here by the real writers."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from deployments.engine.drafting.draft import Draft, RecordedComponent, RecordedSolver
from deployments.engine.media.audio import write_audio
from deployments.engine.snapshot.format import FORMAT, Origin, Snapshot
from tests.domain.media import icc
from tests.gguf_files import write_gguf

SIDE = 32


def _picture(mode: str = "RGB") -> Image.Image:
    levels = np.arange(SIDE * SIDE * 4, dtype=np.uint32).reshape(SIDE, SIDE, 4) % 251
    return Image.fromarray(levels.astype(np.uint8), "RGBA").convert(mode)


def images() -> Sequence[bytes]:
    files: list[bytes] = []
    for name, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {"optimize": True}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "I;16", {}),
        ("JPEG", "RGB", {"exif": _turned()}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 50}),
        ("GIF", "P", {"save_all": True, "append_images": [_picture("P")]}),
        ("AVIF", "RGBA", {"exif": _turned()}),
        ("TIFF", "RGB", {"icc_profile": icc.of_primaries(icc.P3)}),
        ("TIFF", "CMYK", {"compression": "tiff_lzw", "exif": _turned()}),
        ("BMP", "RGB", {}),
    ):
        file = io.BytesIO()
        _picture("L" if mode == "I;16" else mode).save(file, name, **_options(options))
        files.append(file.getvalue())
    return files


def _options(options: object) -> dict[str, Any]:
    return dict(options) if isinstance(options, dict) else {}


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a red circle"
    return exif.tobytes()


def videos() -> Sequence[bytes]:
    return [
        _video("mp4", "libx264", "yuv420p"),
        _video("webm", "libvpx-vp9", "yuv420p"),
        _video("gif", "gif", "rgb8"),
        _video("matroska", "libx264", "yuv420p"),
    ]


def _video(container: str, codec: str, form: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as opened:
        stream: Any = opened.add_stream(codec, rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 2 * SIDE, 2 * SIDE, form
        for number in range(6):
            picture = _picture().resize((2 * SIDE, 2 * SIDE)).rotate(15 * number)
            opened.mux(stream.encode(av.VideoFrame.from_image(picture)))
        opened.mux(stream.encode(None))
    return file.getvalue()


def audio() -> Sequence[bytes]:
    samples = np.sin(np.arange(2400, dtype=np.float32) / 20)[None] * 0.5
    files: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for media_type in ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg"):
            path = Path(folder, media_type.replace("/", "."))
            write_audio(path, samples, 8000, media_type, comment="a tone", marked=True)
            files.append(path.read_bytes())
    return files


def weights() -> Sequence[bytes]:
    lora = {
        "transformer.a.lora_A.weight": torch.ones(2, 8),
        "transformer.a.lora_B.weight": torch.ones(8, 2, dtype=torch.bfloat16),
        "transformer.a.alpha": torch.tensor(2.0),
    }
    return [save(lora, metadata={"format": "pt"}), save({"x": torch.zeros(0)}), save({})]


def gguf_files() -> Sequence[bytes]:
    files: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("F16", "Q8_0", "Q4_1"):
            path = Path(folder, f"{kind}.gguf")
            tensors = {"a.weight": torch.ones(4, 64), "a.bias": torch.ones(4)}
            write_gguf(path, tensors, kind, {"a.weight": (2, 2, 64)})
            files.append(path.read_bytes())
    return files


def snapshots() -> Sequence[bytes]:
    snapshot = Snapshot(
        origin=Origin(FORMAT, "2", "0", "cpu", "Pipeline", "made of", "arguments"),
        loras=["digest 1.0"],
        step=3,
        denoisers=["transformer"],
        calls=[],
        frames=[{"place": "call", "locals": {}}],
        call={},
        outputs=None,
        tensors={"x": torch.ones(2)},
    )
    return [snapshot.to_bytes(), *weights()]


def drafts() -> Sequence[bytes]:
    solver = RecordedSolver("Solver", 2, [1.0, 0.5, 0.0], 2, {}, {}, {}, [0.5, 0.5])
    draft = Draft(
        origin=Origin(FORMAT, "2", "0", "cpu", "Pipeline", "made of", "arguments"),
        loras=[],
        step=2,
        steps=3,
        denoisers=["transformer"],
        components={"transformer": [RecordedComponent({}, [4, 8], 1, listed=False, in_steps=True)]},
        solvers=[solver],
        tensors={"x": torch.ones(2)},
    )
    return [draft.to_bytes(), *snapshots()]


def signed_files() -> Sequence[bytes]:
    """Files with a signed manifest, and without."""
    from tests.cli.verification.test_verify import sign_file  # noqa: PLC0415  loads the signer

    plain = images()[0]
    return [sign_file(plain), plain, images()[4]]
