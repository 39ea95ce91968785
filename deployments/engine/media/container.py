"""Containers of input files (MP4, Matroska, …), opened without trusting their contents."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import av
from av.container import InputContainer

from deployments.engine.media import isobmff
from serve_app.domain.errors import InvalidInput

MAX_FRAME_PIXELS = 4096 * 4096
"""Pixels of one frame of a video. FFmpeg decodes frames already to open a file."""

LIMITED = {
    "protocol_whitelist": "pipe",
    "enable_drefs": "0",
    "use_absolute_path": "0",
    "max_pixels": str(MAX_FRAME_PIXELS),
}
"""FFmpeg options that restrict reading to the bytes, whatever the file refers to, and that keep
decoders from allocating larger frames."""


@dataclass(frozen=True, slots=True)
class InputMedia:
    """Media file of an input field, with its expected kind. It is read only when opened."""

    body: bytes
    field: str
    what: str  # "video" or "audio"
    type: str  # fal's error type for a file of another kind
    formats: tuple[str, ...]  # formats that are read
    demuxer: Callable[[bytes], str | None]  # FFmpeg's, by the first bytes; None: unknown

    @contextmanager
    def open(self) -> Generator[InputContainer]:
        """Open the file. Raises ``InvalidInput`` naming the field, also for read errors."""
        # The demuxer is named so that a file cannot be taken for a list of other files to open.
        demuxer = self.demuxer(self.body)
        if demuxer is None:
            message = f"the file is not a supported {self.what} file ({', '.join(self.formats)})"
            known = {"supported_formats": list(self.formats)}
            raise InvalidInput.of_field(self.field, message, self.type, known)
        if demuxer == "mov" and (why := isobmff.refusal(self.body)) is not None:
            raise self.unread(why)
        try:
            with av.open(BytesIO(self.body), "r", format=demuxer, options=LIMITED) as container:
                yield container
        except (av.FFmpegError, ValueError) as error:
            raise self.unread(str(error)) from None

    def unread(self, why: str) -> InvalidInput:
        message = f"the {self.what} file cannot be read: {why}"
        return InvalidInput.of_field(self.field, message, self.type)


def is_isobmff(body: bytes) -> bool:
    """Return whether it is MP4, M4A or MOV (ISO/IEC 14496-12, 4.3)."""
    return body[4:8] == b"ftyp"


def is_matroska(body: bytes) -> bool:
    """Return whether it is Matroska or WebM, by the EBML header (RFC 8794, 11.2)."""
    return body.startswith(b"\x1a\x45\xdf\xa3")
