"""Code of apps on a node: fetched by its digest, checked, and unpacked once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Awaitable, Callable
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

from serve_app.domain.errors import AppNotStarted

MAX_UNPACKED_BYTES = 256 * 2**20
MAX_FILES = 2000
MAX_PATH = 200  # bytes of a file's name with its folders

_DIGEST = re.compile(r"[0-9a-f]{64}")

_DAMAGED = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, ValueError)
"""Errors of ``zipfile`` for damaged and encrypted archives, and for unknown compressions."""


class AppCode:
    """Folders with the code of apps, below ``directory``. Use on one event loop."""

    def __init__(self, directory: Path, fetch: Callable[[str], Awaitable[bytes]]) -> None:
        """``fetch``: function from a digest to the zip file."""
        self._directory = directory
        self._fetch = fetch

    async def folder(self, digest: str) -> Path:
        """Folder with the code of this digest. ``AppNotStarted`` if it is not what it should be."""
        if not _DIGEST.fullmatch(digest):
            raise AppNotStarted(f"The code of the app has no SHA-256, but {digest[:80]!r}.")
        folder = self._directory / digest
        if not folder.is_dir():
            content = await self._fetch(digest)
            if hashlib.sha256(content).hexdigest() != digest:
                raise AppNotStarted("The code of the app arrived damaged.")
            await asyncio.to_thread(unpack, content, folder)
        return folder


def unpack(content: bytes, folder: Path) -> None:
    """Unpack a bundle to ``folder``, which then has all of it. ``AppNotStarted`` names what is
    wrong with it."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = Path(mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    try:
        _extract(content, staging)
        os.rename(staging, folder)  # noqa: PTH104  # fails if it is there, and then it is the same
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(content: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            check(infos)
            for info in infos:
                archive.extract(info, folder)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise AppNotStarted(
            f"The code of the app has a file and a folder of one name: {error}"
        ) from error
    except _DAMAGED as error:
        raise AppNotStarted(f"The code of the app is no usable zip file: {error}") from error


def check(infos: list[zipfile.ZipInfo]) -> None:
    """Raise ``AppNotStarted`` for files outside of the folder, and for too much."""
    if len(infos) > MAX_FILES or sum(member.file_size for member in infos) > MAX_UNPACKED_BYTES:
        raise AppNotStarted(
            f"The code of an app has at most {MAX_FILES} files and "
            f"{MAX_UNPACKED_BYTES // 2**20} MiB."
        )
    for entry in infos:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise AppNotStarted(f"The code of the app has a file outside of it: {entry.filename}")
        if len(entry.filename.encode()) > MAX_PATH:
            raise AppNotStarted(
                f"The code of the app has a file whose name has more than {MAX_PATH} bytes: "
                f"{entry.filename[:MAX_PATH]}"
            )
