"""Artifacts in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import (
    ArtifactNotFound,
    Forbidden,
    StorageFull,
    StorageUnavailable,
    TooLarge,
)
from serve_app.domain.ports import Clock
from serve_app.storage import keys as key_names
from serve_app.storage.tickets import TicketSigner

P = ParamSpec("P")
T = TypeVar("T")

CHUNK_BYTES = 1 << 20
"""Written and read at once; each costs one hop to a thread."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


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

    def ticket(self, key: str, media_type: str, max_bytes: int, valid_s: float) -> UploadTicket:
        return self.tickets.sign(key, media_type, max_bytes, valid_s)

    def link(self, key: str, media_type: str, disposition: str, valid_s: float) -> None:
        """None: only the ingress can read the directory."""

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store the whole or nothing; returns bytes. ``StorageFull``, ``StorageUnavailable``."""
        del media_type  # kept by the key's extension
        path = self._path(key)
        temporary = path.with_name(f".{secrets.token_hex(8)}.part")
        upload = _Upload(temporary, path, self._max_bytes)
        try:
            await self._receive(upload, chunks)
            await _in_thread(upload.commit)
        finally:
            # Also when the caller was cancelled in mid-upload: nothing half-written stays.
            await asyncio.shield(_in_thread(upload.discard))
        return upload.size

    async def _receive(self, upload: _Upload, chunks: AsyncIterator[bytes]) -> None:
        pending: list[bytes] = []
        pending_bytes = 0
        async for chunk in chunks:
            pending.append(chunk)
            pending_bytes += len(chunk)
            if pending_bytes >= CHUNK_BYTES:
                await _in_thread(upload.write, b"".join(pending))
                pending, pending_bytes = [], 0
        await _in_thread(upload.write, b"".join(pending))

    async def size(self, key: str) -> int:
        path = self._path(key)
        return await _in_thread(_size, path)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        path = self._path(key)
        file = await _in_thread(_open, path, start)
        try:
            left = end - start
            while left > 0:
                chunk = await _in_thread(file.read, min(left, CHUNK_BYTES))
                if not chunk:
                    return
                left -= len(chunk)
                yield chunk
        finally:
            await asyncio.shield(_in_thread(file.close))

    async def delete(self, keys: Sequence[str]) -> None:
        paths = [self.root / key for key in keys if key_names.valid(key)]
        await _in_thread(_delete, paths)

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

    def _path(self, key: str) -> Path:
        if not key_names.valid(key):
            raise ArtifactNotFound("No such artifact.")
        return self.root / key


class _Upload:
    """One object on its way in. Every method blocks and runs in a thread.

    A cancelled caller does not stop the thread that writes for it, so ``discard`` may come while a
    ``write`` still runs: the lock puts them in order, and nothing is written after a discard.
    """

    def __init__(self, temporary: Path, path: Path, max_bytes: int | None) -> None:
        self._temporary = temporary
        self._path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._discarded = False
        self.size = 0

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._temporary.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("xb")
            self.size += len(data)
            if self._max_bytes is not None and self.size > self._max_bytes:
                raise TooLarge(f"The artifact is larger than the {self._max_bytes} bytes allowed.")
            self._digest.update(data)
            self._file.write(data)

    def commit(self) -> None:
        with self._lock:
            if self._file is None or self._discarded:
                return
            self._file.flush()
            os.fsync(self._file.fileno())
            try:
                # link, not rename: it refuses to replace what a client may have been given already.
                self._path.hardlink_to(self._temporary)
            except FileExistsError:
                self._refuse_other_content()
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._temporary.replace(self._path)
            _fsync_directory(self._path.parent)

    def _refuse_other_content(self) -> None:
        with self._path.open("rb") as there:
            if hashlib.file_digest(there, "sha256").digest() != self._digest.digest():
                raise Forbidden("This artifact was already uploaded with other content.")

    def discard(self) -> None:
        """Remove the temporary file; after a commit the object has its own name and stays."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                # Closing flushes, which fails once more on a full disk: that was reported already.
                with contextlib.suppress(OSError):
                    self._file.close()
                self._temporary.unlink(missing_ok=True)


async def _in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run blocking ``work`` in a thread; the system's errors become ours."""
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                "The disk that holds the artifacts is full: free some space, or point "
                "DARKROOM_DATA_DIR at a larger one."
            ) from error
        raise StorageUnavailable(
            f"The artifact directory does not work: {error.strerror or error}."
        ) from error


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


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _fsync_directory(directory: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
