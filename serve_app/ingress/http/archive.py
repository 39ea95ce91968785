"""Zip archives that are written while they are sent, so that none of them is in memory."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, cast

from typing_extensions import Buffer

from serve_app.domain.ports import Storage


class ZipStream:
    """Archive without compression: images and videos are compressed already. Its callers send what
    each method yields, and ``end`` at last. About 1 kB stays in memory for each file."""

    def __init__(self) -> None:
        self._sink = _Sink()
        # It only writes and flushes.
        self._archive = zipfile.ZipFile(cast("Any", self._sink), "w", zipfile.ZIP_STORED)

    async def add_file(
        self, storage: Storage, key: str, size: int, name: str, at: datetime
    ) -> AsyncGenerator[bytes]:
        """Add a file of the storage. Raises ``ArtifactNotFound`` before it writes anything."""
        async with aclosing(storage.read(key, 0, size)) as content:
            chunk = await anext(content, b"")
            with self._archive.open(_info(name, at), "w", force_zip64=True) as file:
                while chunk:
                    file.write(chunk)
                    yield self._sink.take()
                    chunk = await anext(content, b"")
        yield self._sink.take()

    async def add_text(
        self, parts: AsyncIterator[str], name: str, at: datetime
    ) -> AsyncGenerator[bytes]:
        """Add a file made of texts."""
        with self._archive.open(_info(name, at), "w", force_zip64=True) as file:
            async for part in parts:
                file.write(part.encode())
                yield self._sink.take()
        yield self._sink.take()

    def end(self, texts: dict[str, str] | None = None) -> bytes:
        """Add short files, and the archive's directory."""
        for name, text in (texts or {}).items():
            self._archive.writestr(name, text)
        self._archive.close()
        return self._sink.take()


def _info(name: str, at: datetime) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, at.astimezone(UTC).timetuple()[:6])
    info.external_attr = 0o644 << 16
    return info


class _Sink:
    """What ``zipfile`` writes and has not been sent. It cannot seek, so sizes follow the files."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: Buffer) -> int:
        written = bytes(data)
        self._written.append(written)
        return len(written)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        written, self._written = self._written, []
        return b"".join(written)
