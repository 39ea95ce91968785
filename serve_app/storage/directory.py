"""Artifact storage in a directory, with multipart uploads in a hidden folder of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.atomic_file import AtomicFile, TemporaryFile, marker_of
from serve_app.domain.errors import ArtifactNotFound, StorageUnavailable
from serve_app.domain.ports import Clock
from serve_app.domain.upload import UploadPart
from serve_app.storage import keys as key_names
from serve_app.storage.blocking import CHUNK_BYTES, in_thread, write_all
from serve_app.storage.keys import PARTS_ID, missing_part, upload_not_found
from serve_app.storage.listing import StoredObject, walk
from serve_app.storage.tickets import TicketSigner

log = logging.getLogger(__name__)

FOLDER = ".parts"
"""No key begins with a dot, so nothing in this folder is ever served."""

LISTED_AT_ONCE = 500


class DirectoryStorage:
    """Implementation of ``domain.ports.Storage`` over files below ``root``.

    An object exists completely or not at all, and never changes: a second ``put`` of a key with the
    same bytes succeeds, with different bytes it raises ``Forbidden``. Nothing blocks the event
    loop.
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
        """Return None: only the ingress can read the directory."""

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        """Store all chunks or nothing, and return the size in bytes.

        Raises ``StorageFull`` or ``StorageUnavailable``.
        """
        del media_type  # the key's extension keeps it
        upload = self._arriving(key)
        try:
            await write_all(chunks, upload.write)
            await in_thread(upload.commit)
        finally:
            # Runs even if the caller is cancelled during the upload: no partial file remains.
            await asyncio.shield(in_thread(upload.discard))
        return upload.size

    async def begin_parts(self, key: str, media_type: str) -> str:
        del media_type
        self._path(key)
        return self._parts.begin()

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        del key
        return await self._parts.put(parts_id, number, chunks)

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        return await self._parts.join(parts_id, etags, self._arriving(key))

    async def drop_parts(self, key: str, parts_id: str) -> None:
        del key
        await self._parts.drop(parts_id)

    async def size(self, key: str) -> int:
        size, _ = await self.head(key, 0)
        return size

    async def head(self, key: str, most: int) -> tuple[int, bytes]:
        return await in_thread(_head, self._path(key), most)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        path = self._path(key)
        file, chunk = await in_thread(_begin, path, start, min(end - start, CHUNK_BYTES))
        try:
            left = end - start
            while chunk:
                left -= len(chunk)
                yield chunk
                chunk = await in_thread(file.read, min(left, CHUNK_BYTES)) if left else b""
        finally:
            await asyncio.shield(in_thread(file.close))

    async def files(self) -> AsyncIterator[StoredObject]:
        """All objects, in the byte order of their keys."""
        walking = walk(self.root)
        while batch := await in_thread(list, islice(walking, LISTED_AT_ONCE)):
            for entry in batch:
                yield entry

    async def delete(self, keys: Sequence[str]) -> None:
        paths = [self.root / key for key in keys if key_names.valid(key)]
        await in_thread(_delete, paths, self.root)

    async def start(self) -> None:
        """Make ``root`` a directory of its owner only, also if it exists.

        All below it is created when it is needed. Other users cannot reach it.
        """
        await in_thread(_make_private, self.root)
        self.tickets.marker = await in_thread(marker_of, self.root)

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
            raise StorageUnavailable(
                f"The bytes read from {self.root} differ from those written. Check the disk."
            )

    def _arriving(self, key: str) -> AtomicFile:
        return AtomicFile(self._path(key), self._max_bytes)

    def _path(self, key: str) -> Path:
        if not key_names.valid(key):
            raise ArtifactNotFound("No such artifact.")
        return self.root / key


def _make_private(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        root.chmod(0o700)
    except PermissionError:  # another user's directory, for example of a volume
        log.warning("Other users may read the artifacts in %s: it belongs to another user.", root)


def _head(path: Path, most: int) -> tuple[int, bytes]:
    with _open_file(path) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactNotFound("No such artifact.")
        return status.st_size, file.read(most) if most else b""


def _begin(path: Path, start: int, size: int) -> tuple[BinaryIO, bytes]:
    """The file, and the first ``size`` bytes from ``start`` on."""
    file = _open_file(path)
    try:
        file.seek(start)
        return file, file.read(size)
    except BaseException:
        file.close()
        raise


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ArtifactNotFound("No such artifact.") from None


def _delete(paths: Sequence[Path], root: Path) -> None:
    """Delete files, temporary files that killed processes left, and empty directories."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        for left in path.parent.glob(AtomicFile.temporary_names(path)):
            left.unlink(missing_ok=True)
        for directory in path.parents:
            if directory == root:
                break
            try:
                directory.rmdir()
            except OSError:
                break  # not empty, or missing


class DirectoryParts:
    """Multipart uploads: one folder per upload, and in it one file per part.

    A part's file name is its number and its MD5.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER

    def begin(self) -> str:
        return secrets.token_hex(16)

    async def put(self, parts_id: str, number: int, chunks: AsyncIterator[bytes]) -> UploadPart:
        """Store one part completely or not at all. Replaces an earlier part of the same number."""
        part = _AtomicPart(self._folder(parts_id), number)
        try:
            await write_all(chunks, part.write)
            await in_thread(part.commit)
        finally:
            await asyncio.shield(in_thread(part.discard))
        return UploadPart(number, part.etag, part.size)

    async def join(self, parts_id: str, etags: Mapping[int, str], whole: AtomicFile) -> int:
        """Write the parts to ``whole`` in the order of their numbers, then delete them."""
        folder = self._folder(parts_id)
        names = {number: _name(number, etags[number]) for number in sorted(etags)}
        try:
            await in_thread(_check, folder, names)
            for number, name in names.items():
                await in_thread(_append, folder / name, number, whole)
            await in_thread(whole.commit)
        finally:
            await asyncio.shield(in_thread(whole.discard))
        await in_thread(shutil.rmtree, folder, ignore_errors=True)
        return whole.size

    async def drop(self, parts_id: str) -> None:
        await in_thread(shutil.rmtree, self._folder(parts_id), ignore_errors=True)

    def _folder(self, parts_id: str) -> Path:
        if PARTS_ID.fullmatch(parts_id) is None:
            raise upload_not_found()
        return self._root / parts_id


class _AtomicPart(TemporaryFile):
    """Part that is being uploaded."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder / f"{secrets.token_hex(8)}.part")
        self._folder = folder
        self._number = number
        self._digest = hashlib.md5(usedforsecurity=False)

    @property
    def etag(self) -> str:
        return self._digest.hexdigest()

    def _note(self, data: bytes) -> None:
        self._digest.update(data)

    def commit(self) -> None:
        with self._lock:
            if self._file is None or self._discarded:
                return
            self._file.close()
            try:
                kept = self._temporary.replace(self._folder / _name(self._number, self.etag))
            except FileNotFoundError:  # another call has joined or dropped the parts meanwhile
                raise upload_not_found() from None
            for other in self._folder.glob(f"{self._number}-*"):
                if other != kept:
                    other.unlink(missing_ok=True)


def _name(number: int, etag: str) -> str:
    return f"{number}-{etag}"


def _check(folder: Path, names: Mapping[int, str]) -> None:
    """Check that every part exists.

    The names are compared with those in the folder, so no ETag can name another file.
    """
    try:
        there = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):  # another call has joined or dropped them
        there = set[str]()
    for number, name in names.items():
        if name not in there:
            raise missing_part(number)


def _append(path: Path, number: int, whole: AtomicFile) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                whole.write(chunk)
    except FileNotFoundError:
        raise missing_part(number) from None
