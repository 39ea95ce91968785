"""A produced file on its way to storage."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from serve_app.domain.artifact import Artifact, UploadTicket

PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file to upload: what is in it, or where it lies, since a clip may be larger than what one
    wants to hold in memory."""

    ticket: UploadTicket
    body: bytes | Path
    width: int | None = None  # pixels
    height: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size

    def artifact(self) -> Artifact:
        """Reads all of it, so a large one takes a while."""
        return Artifact(
            key=self.ticket.key,
            media_type=self.ticket.media_type,
            size=self.size,
            sha256=self._digest("sha256").hex(),
            width=self.width,
            height=self.height,
        )

    def md5(self) -> str:
        """In base64, as the header ``Content-MD5`` has it. Reads all of it."""
        return base64.b64encode(self._digest("md5")).decode()

    def in_memory(self) -> bytes:
        """Reads all of it."""
        return self.body if isinstance(self.body, bytes) else self.body.read_bytes()

    def content(self) -> bytes | AsyncIterator[bytes]:
        """For one request; of a file that lies somewhere, part by part."""
        return self.body if isinstance(self.body, bytes) else _parts(self.body)

    def _digest(self, name: str) -> bytes:
        if isinstance(self.body, bytes):
            return hashlib.new(name, self.body, usedforsecurity=False).digest()
        with self.body.open("rb") as file:
            return hashlib.file_digest(file, lambda: _hash(name)).digest()


class TakesFiles(Protocol):
    """Where files go. Real: storage, by their tickets."""

    async def put(self, file: MediaFile) -> None:
        """``TooLarge`` when the file is over its ticket's limit."""
        ...

    async def delete(self, ticket: UploadTicket) -> None: ...

    async def aclose(self) -> None: ...


def _hash(name: str) -> hashlib._Hash:
    return hashlib.new(name, usedforsecurity=False)


async def _parts(path: Path) -> AsyncIterator[bytes]:
    file: BinaryIO = await asyncio.to_thread(path.open, "rb")
    try:
        while part := await asyncio.to_thread(file.read, PART_BYTES):
            yield part
    finally:
        file.close()
