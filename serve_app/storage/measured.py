"""Storage whose calls are counted by their results."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Storage
from serve_app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serve_app.domain.upload import UploadPart


class MeasuredStorage:
    """A ``Storage`` that counts the calls of another one.

    An object is read, written or deleted, or its size is read. Of an upload in parts, each part and
    their joining is a write, and dropping them a delete. Tickets and links lead past this process
    and count nothing.
    """

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage = storage
        self._metrics = metrics
        self.ticket = storage.ticket
        self.link = storage.link
        self.check = storage.check

    async def put(self, key: str, media_type: str, chunks: AsyncIterator[bytes]) -> int:
        with self._count_call("write"):
            return await self._storage.put(key, media_type, chunks)

    async def begin_parts(self, key: str, media_type: str) -> str:
        with self._count_call("write"):
            return await self._storage.begin_parts(key, media_type)

    async def put_part(
        self, key: str, parts_id: str, number: int, chunks: AsyncIterator[bytes]
    ) -> UploadPart:
        with self._count_call("write"):
            return await self._storage.put_part(key, parts_id, number, chunks)

    async def join_parts(self, key: str, parts_id: str, etags: Mapping[int, str]) -> int:
        with self._count_call("write"):
            return await self._storage.join_parts(key, parts_id, etags)

    async def drop_parts(self, key: str, parts_id: str) -> None:
        with self._count_call("delete"):
            await self._storage.drop_parts(key, parts_id)

    async def size(self, key: str) -> int:
        with self._count_call("size"):
            return await self._storage.size(key)

    async def head(self, key: str, most: int) -> tuple[int, bytes]:
        with self._count_call("read" if most else "size"):
            return await self._storage.head(key, most)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        with self._count_call("read"):
            async with aclosing(self._storage.read(key, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def delete(self, keys: Sequence[str]) -> None:
        with self._count_call("delete", len(keys)):
            await self._storage.delete(keys)

    @contextmanager
    def _count_call(self, call: str, number: int = 1) -> Generator[None]:
        result = "aborted"
        try:
            yield
            result = "done"
        except DarkroomError as error:
            result = error.code
            raise
        finally:
            self._metrics.storage_called(call, result, number)
