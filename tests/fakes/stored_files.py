"""Sums of the files in the fake queue and in the fake book of uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from serve_app.domain.artifact import (
    Artifact,
    StorageUse,
    StoredKind,
    StoredSum,
    is_elsewhere,
)
from serve_app.domain.ports import Clock
from serve_app.domain.upload import UploadBook
from tests.fakes.queue_row import Row
from tests.fakes.uploads import FakeUploads


class FakeStoredFiles:
    def __init__(
        self, clock: Clock, rows: Mapping[str, Row], uploads: Callable[[], UploadBook | None]
    ) -> None:
        self._clock, self._rows, self._uploads = clock, rows, uploads

    async def use(self) -> StorageUse:
        files: Counter[tuple[str, StoredKind]] = Counter()
        sizes: Counter[tuple[str, StoredKind]] = Counter()
        for tenant, kind, size in (*self._made(), *self._uploaded()):
            files[tenant, kind] += 1
            sizes[tenant, kind] += size
        sums = [StoredSum(*key, count, sizes[key]) for key, count in files.items()]
        return StorageUse(self._clock.now(), sums, unwanted=0, overdue=0)

    def _made(self) -> Iterator[tuple[str, StoredKind, int]]:
        for row in self._rows.values():
            outcome, tenant = row.request.outcome, row.request.tenant
            for file in () if outcome is None else outcome.artifacts:
                if is_elsewhere(file.key):
                    continue
                yield tenant, _kind(file), file.size
                if file.thumbnail is not None:
                    yield tenant, "thumbnail", file.thumbnail.size
            for file in () if outcome is None else outcome.drafts:
                yield tenant, "draft", file.size

    def _uploaded(self) -> Iterator[tuple[str, StoredKind, int]]:
        book = self._uploads()
        if not isinstance(book, FakeUploads):
            return
        for upload in book.list_complete():
            yield upload.tenant, "upload", upload.size or 0


def _kind(file: Artifact) -> StoredKind:
    word = file.media_type.partition("/")[0]
    return cast("StoredKind", word if word in ("image", "video", "audio") else "other")
