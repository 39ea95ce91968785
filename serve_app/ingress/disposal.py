"""Deletes from storage what the database says nobody wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from serve_app.domain.ports import Storage
from serve_app.domain.upload import UploadBook
from serve_app.queue.recovery import Rounds
from serve_app.queue.unwanted import Unwanted

EVERY_S = 10.0
MOST_AT_ONCE = 100


class Disposal:
    """Any number of ingress processes may do it at once. With storage away, it is done later."""

    def __init__(
        self,
        unwanted: Unwanted,
        uploads: UploadBook,
        storage: Storage,
        *before: Callable[[], Awaitable[None]],
    ) -> None:
        """``before``: what is done before each round, as it may make something unwanted."""
        self._unwanted = unwanted
        self._uploads = uploads
        self._storage = storage
        self._rounds = Rounds(EVERY_S, [*before, self.dispose, self.dispose_uploads])

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        await self._rounds.aclose()

    async def dispose(self) -> None:
        """All that is due."""
        while keys := await self._unwanted.take(MOST_AT_ONCE):
            await self._storage.delete(keys)
            await self._unwanted.forget(keys)

    async def dispose_uploads(self) -> None:
        """Those that were abandoned, given up, or kept long enough."""
        await self._uploads.mark_aged()
        while uploads := await self._uploads.take_unwanted(MOST_AT_ONCE):
            for each in uploads:
                if each.parts_id is not None:
                    await self._storage.drop_parts(each.key, each.parts_id)
            keys = [each.key for each in uploads]
            await self._storage.delete(keys)
            await self._uploads.forget(keys)
