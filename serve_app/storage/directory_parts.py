"""Uploads in parts, below a hidden folder of the directory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO

from serve_app.domain.upload import Part
from serve_app.storage.arriving import ArrivingFile
from serve_app.storage.blocking import CHUNK_BYTES, in_thread, write_all
from serve_app.storage.parts import PARTS_ID, missing_part, no_parts

FOLDER = ".parts"
"""No key begins with a dot, so nothing of it is ever served."""


class DirectoryParts:
    """A folder for each upload, in it a file for each part, named by its number and its MD5."""

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER

    def begin(self) -> str:
        return secrets.token_hex(16)

    async def put(self, parts_id: str, number: int, chunks: AsyncIterator[bytes]) -> Part:
        """Whole or not at all, in place of an earlier one of the number."""
        part = _ArrivingPart(self._folder(parts_id), number)
        try:
            await write_all(chunks, part.write)
            await in_thread(part.commit)
        finally:
            await asyncio.shield(in_thread(part.discard))
        return Part(number, part.etag, part.size)

    async def join(self, parts_id: str, etags: Mapping[int, str], whole: ArrivingFile) -> int:
        """Write them, in the order of their numbers, to ``whole``; then the parts are gone."""
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
            raise no_parts()
        return self._root / parts_id


class _ArrivingPart:
    """Every method blocks and runs in a thread. The lock is for a ``discard`` that comes, from a
    cancelled caller, while another still runs: nothing is written after it."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._temporary = folder / f"{secrets.token_hex(8)}.part"
        self._file: BinaryIO | None = None
        self._digest = hashlib.md5(usedforsecurity=False)
        self._lock = threading.Lock()
        self._discarded = False
        self.size = 0

    @property
    def etag(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._discarded:
                return
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("xb")
            self.size += len(data)
            self._digest.update(data)
            self._file.write(data)

    def commit(self) -> None:
        with self._lock:
            if self._file is None or self._discarded:
                return
            self._file.close()
            kept = self._temporary.replace(self._folder / _name(self._number, self.etag))
            for other in self._folder.glob(f"{self._number}-*"):
                if other != kept:
                    other.unlink(missing_ok=True)

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._file is not None:
                # Closing flushes, which fails once more on a full disk: that was reported already.
                with contextlib.suppress(OSError):
                    self._file.close()
                self._temporary.unlink(missing_ok=True)


def _name(number: int, etag: str) -> str:
    return f"{number}-{etag}"


def _check(folder: Path, names: Mapping[int, str]) -> None:
    """Comparing with what is there, so that no ETag can name anything else."""
    there = {each.name for each in os.scandir(folder)} if folder.is_dir() else set[str]()
    for number, name in names.items():
        if name not in there:
            raise missing_part(number)


def _append(path: Path, number: int, whole: ArrivingFile) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                whole.write(chunk)
    except FileNotFoundError:
        raise missing_part(number) from None
