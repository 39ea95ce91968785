"""XMP packets in files that FFmpeg has written, which writes none itself.

A packet is appended, so nothing in the file moves: not the index of an MP4, nor its samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from struct import pack, unpack
from typing import BinaryIO
from uuid import UUID

from serve_app.domain.errors import PipelineFailed

_MP4_XMP = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes  # XMP specification, part 3
_GIF_END = b"\x3b"
_GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
# Readers that take the packet for sub-blocks of GIF land somewhere in this, and then at its end.
_GIF_LANDING = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"


def add_xmp(path: Path, media_type: str, packet: str) -> bool:
    """Append ``packet`` to the file. False if the format has no place for it at its end.

    ``PipelineFailed`` if the file is not what its type says.
    """
    append = _APPEND.get(media_type)
    if append is None:
        return False
    with path.open("r+b") as file:
        append(file, packet.encode())
    return True


def _append_box(file: BinaryIO, packet: bytes) -> None:
    """Append a ``uuid`` box, which MP4 readers skip that do not know it."""
    file.seek(0, os.SEEK_END)
    file.write(pack(">I4s16s", 24 + len(packet), b"uuid", _MP4_XMP) + packet)


def _append_chunk(file: BinaryIO, packet: bytes) -> None:
    """Append a ``_PMX`` chunk, and make the RIFF header count it."""
    header = file.read(8)
    if header[:4] != b"RIFF":
        raise PipelineFailed("The audio file is too large for a WAV file with metadata.")
    (size,) = unpack("<I", header[4:])
    end = file.seek(0, os.SEEK_END)
    pad = b"\0" * (end % 2)
    chunk = pad + pack("<4sI", b"_PMX", len(packet)) + packet + b"\0" * (len(packet) % 2)
    file.write(chunk)
    file.seek(4)
    file.write(pack("<I", size + len(chunk)))


def _append_extension(file: BinaryIO, packet: bytes) -> None:
    """Put an application extension before the trailer of a GIF."""
    file.seek(-1, os.SEEK_END)
    if file.read(1) != _GIF_END:
        raise PipelineFailed("The GIF file has no end.")
    file.seek(-1, os.SEEK_END)
    file.write(_GIF_XMP + packet + _GIF_LANDING + _GIF_END)


_APPEND: Mapping[str, Callable[[BinaryIO, bytes], None]] = {
    "video/mp4": _append_box,
    "audio/wav": _append_chunk,
    "image/gif": _append_extension,
}
