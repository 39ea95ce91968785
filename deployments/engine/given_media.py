"""Files of clips and sounds that an input names, opened with nothing trusted about them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import av
from av.container import InputContainer

from serve_app.domain.errors import InvalidInput

_ALONE = {"protocol_whitelist": "pipe", "enable_drefs": "0", "use_absolute_path": "0"}
"""Nothing but the bytes is read, whatever they refer to."""


@dataclass(frozen=True, slots=True)
class GivenMedia:
    """A file, and what it is to be. Nothing is read before it is opened."""

    body: bytes
    field: str
    what: str  # "clip" or "sound"
    type: str  # of what is said of one that is none, as fal has it
    formats: tuple[str, ...]  # that are read
    demuxer: Callable[[bytes], str | None]  # FFmpeg's, by how a file begins; None: none of them

    @contextmanager
    def opened(self) -> Generator[InputContainer]:
        """``InvalidInput`` names the field, also of what goes wrong while it is read."""
        # Named, so that none is taken for a list of other files to open.
        demuxer = self.demuxer(self.body)
        if demuxer is None:
            message = f"the file is no {self.what} that is read here ({', '.join(self.formats)})"
            known = {"supported_formats": list(self.formats)}
            raise InvalidInput.of_field(self.field, message, self.type, known)
        try:
            with av.open(BytesIO(self.body), "r", format=demuxer, options=_ALONE) as container:
                yield container
        except (av.FFmpegError, ValueError) as error:
            raise self.unread(str(error)) from None

    def unread(self, why: str) -> InvalidInput:
        message = f"the {self.what} cannot be read: {why}"
        return InvalidInput.of_field(self.field, message, self.type)


def is_isobmff(body: bytes) -> bool:
    """MP4, M4A or MOV (ISO/IEC 14496-12, 4.3)."""
    return body[4:8] == b"ftyp"


def is_matroska(body: bytes) -> bool:
    """WebM too: the header of EBML (RFC 8794, 11.2)."""
    return body.startswith(b"\x1a\x45\xdf\xa3")
