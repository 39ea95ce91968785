"""Artifacts in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.domain.ports import Clock
from serve_app.domain.upload import Part
from serve_app.storage import keys as key_names
from serve_app.storage.arriving import ArrivingFile
from serve_app.storage.blocking import CHUNK_BYTES, in_thread, write_all
from serve_app.storage.directory_parts import DirectoryParts
from serve_app.storage.tickets import TicketSigner


class DirectoryStorage:
    """Implements ``domain.ports.Storage`` over files below ``root``.

    An object is there whole or not at all, and never changes: a second ``put`` of the same key with
    the same bytes is no error, with others it is ``Forbidden``. Nothing blocks the event loop.
    """

    def __init__(
        self,
        root: Path,
        signing_key: bytes,
        internal_url: str,
        clock: Clock,
        max_bytes: int | None = None,
    ) -> None:
        self.root = root
        self.tickets = TicketSigner(signing_key, internal_url, clock)
        self._max_bytes = max_bytes
        self._parts = DirectoryParts(root)

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        return self.tickets.sign(key, media_type, max_bytes, valid_s)

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> None:
        """None: only the ingress can read the directory."""

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the whole or nothing; returns bytes. ``StorageFull``, ``StorageUnavailable``."""
        del media_type  # kept by the key's extension
        upload = self._arriving(key)
        try:
            await write_all(chunks, upload.write)
            await in_thread(upload.commit)
        finally:
            # Also when the caller was cancelled in mid-upload: nothing half-written stays.
            await asyncio.shield(in_thread(upload.discard))
        return upload.size

    async def begin_parts(self, key: str, media_type: str) -> str:
        del media_type
        self._path(key)
        return self._parts.begin()

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> Part:
        del key
        return await self._parts.put(parts_id, number, chunks)

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        return await self._parts.join(parts_id, etags, self._arriving(key))

    async def drop_parts(self, key: str, parts_id: str) -> None:
        del key
        await self._parts.drop(parts_id)

    async def size(self, key: str) -> int:
        path = self._path(key)
        return await in_thread(_size, path)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        path = self._path(key)
        file = await in_thread(_open, path, start)
        try:
            left = end - start
            while left > 0:
                chunk = await in_thread(file.read, min(left, CHUNK_BYTES))
                if not chunk:
                    return
                left -= len(chunk)
                yield chunk
        finally:
            await asyncio.shield(in_thread(file.close))

    async def delete(self, keys: Sequence[str]) -> None:
        paths = [self.root / key for key in keys if key_names.valid(key)]
        await in_thread(_delete, paths, self.root)

    async def start(self) -> None:
        """Nothing to do: directories are made as they are needed."""

    async def aclose(self) -> None:
        """Nothing to do."""

    async def check(self) -> None:
        key = f"check/{secrets.token_hex(8)}.bin"
        content = secrets.token_bytes(32)

        async def once() -> AsyncIterator[bytes]:
            yield content

        await self.put(key, "application/octet-stream", once())
        try:
            back = b"".join([chunk async for chunk in self.read(key, 0, len(content))])
        finally:
            await self.delete([key])
        if back != content:
            raise StorageUnavailable(f"{self.root} gave back other bytes than were written.")

    def _arriving(self, key: str) -> ArrivingFile:
        return ArrivingFile(self._path(key), self._max_bytes)

    def _path(self, key: str) -> Path:
        if not key_names.valid(key):
            raise ArtifactNotFound("No such artifact.")
        return self.root / key


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactNotFound("No such artifact.") from None


def _open(path: Path, start: int) -> BinaryIO:
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ArtifactNotFound("No such artifact.") from None
    file.seek(start)
    return file


def _delete(paths: Sequence[Path], root: Path) -> None:
    """With what a process that was killed has left of their uploads, and empty directories."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        for left in path.parent.glob(ArrivingFile.temporary_names(path)):
            left.unlink(missing_ok=True)
        for directory in path.parents:
            if directory == root:
                break
            try:
                directory.rmdir()
            except OSError:
                break  # not empty, or not there
