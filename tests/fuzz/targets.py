"""Readers that get damaged inputs, as the product calls them, and the errors they may raise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from serve_app.domain.audit.chain import BrokenChain, verify
from serve_app.domain.errors import (
    ForkRefused,
    InvalidInput,
    LoraRefused,
    SnapshotRefused,
    TooLarge,
    Unsupported,
    WeightsUnavailable,
)
from serve_app.ingress.http import body
from serve_app.ingress.realtime import codec
from serve_app.provenance import reader
from tests.fuzz import texts


@dataclass(frozen=True, slots=True)
class FuzzTarget:
    """Reader under test. ``refusals``: the only errors that it may raise."""

    read: Callable[[bytes], object]
    samples: Callable[[], Sequence[bytes]]
    refusals: tuple[type[Exception], ...]


# The engine is imported by its targets only: the others need no torch.
# ruff: noqa: PLC0415


def _image(content: bytes) -> None:
    from deployments.engine.media.input import InputKind, read_input
    from serve_app.domain.media.images import read_header

    header = read_header(content, "image")
    image = read_input(InputKind.IMAGE, content, "image_url")
    assert image.size == (header.width, header.height)  # or masks would not fit
    assert read_input(InputKind.MASK, content, "mask_url", str).size == image.size


def _video(content: bytes) -> None:
    from deployments.engine.media.input import InputKind, read_input

    video = read_input(InputKind.VIDEO, content, "video_url")
    video.frames(64, 64, video.fps or Fraction(8), 9)


def _audio(content: bytes) -> None:
    from deployments.engine.media.input import InputKind, read_input

    read_input(InputKind.AUDIO, content, "audio_url").samples(16_000, 2, 2.0)


def _header(content: bytes) -> None:
    from deployments.engine.reading.headers import UnknownDtype, WeightFile

    with _file(content, ".safetensors") as path:
        try:
            WeightFile(path).header()
        except UnknownDtype:  # its caller then reads the file in another way
            return


def _gguf(content: bytes) -> None:
    from deployments.engine.reading.headers import WeightFile

    with _file(content, ".gguf") as path:
        opened = WeightFile(path)
        for stored in opened.header().tensors.values():
            opened.values(stored)


def _lora(content: bytes) -> None:
    from deployments.engine.lora.files import LoraFiles
    from deployments.engine.lora.format import Lora

    with _file(content, ".safetensors") as path:
        LoraFiles().inspect([Lora(str(path), 1.0)])


def _snapshot(content: bytes) -> None:
    from deployments.engine.snapshot.format import Snapshot

    Snapshot.of_bytes(content)


def _draft(content: bytes) -> None:
    from deployments.engine.drafting.draft import Draft

    Draft.of_bytes(content)


def _samples(name: str) -> Callable[[], Sequence[bytes]]:
    def made() -> Sequence[bytes]:
        from tests.fuzz import corpus

        samples: Sequence[bytes] = getattr(corpus, name)()
        return samples

    return made


def _signature(content: bytes) -> None:
    suffix = ".jpg" if content.startswith(b"\xff\xd8") else ".png"
    with _file(content, suffix) as path:
        reader.verify(path)


def _frame(content: bytes) -> None:
    codec.pack(codec.unpack(content, 1 << 20))


def _body(content: bytes) -> None:
    body.parse(content)


def _chain(content: bytes) -> None:
    verify(content.decode("utf-8", "surrogateescape").splitlines(keepends=True))


class _file:  # noqa: N801  used as a function
    """Temporary file with these bytes."""

    def __init__(self, content: bytes, suffix: str) -> None:
        self._content = content
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self._path = Path(self._folder.name, f"input{suffix}")

    def __enter__(self) -> Path:
        self._path.write_bytes(self._content)
        return self._path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


TARGETS: Mapping[str, FuzzTarget] = {
    "image": FuzzTarget(_image, _samples("images"), (InvalidInput,)),
    "video": FuzzTarget(_video, _samples("videos"), (InvalidInput,)),
    "audio": FuzzTarget(_audio, _samples("audio"), (InvalidInput,)),
    "safetensors": FuzzTarget(_header, _samples("weights"), (WeightsUnavailable,)),
    "gguf": FuzzTarget(_gguf, _samples("gguf_files"), (WeightsUnavailable,)),
    "lora": FuzzTarget(_lora, _samples("weights"), (LoraRefused,)),
    "snapshot": FuzzTarget(_snapshot, _samples("snapshots"), (SnapshotRefused,)),
    "draft": FuzzTarget(_draft, _samples("drafts"), (ForkRefused,)),
    "json": FuzzTarget(_body, texts.bodies, (InvalidInput,)),
    "msgpack": FuzzTarget(_frame, texts.frames, (InvalidInput, TooLarge)),
    "c2pa": FuzzTarget(_signature, _samples("signed_files"), (Unsupported,)),
    "audit": FuzzTarget(_chain, texts.audit_lines, (BrokenChain,)),
}
