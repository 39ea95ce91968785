"""Deletes from storage what the database says nobody wants."""

from __future__ import annotations

from serve_app.domain.ports import Storage
from serve_app.queue.recovery import Rounds
from serve_app.queue.unwanted import Unwanted

EVERY_S = 10.0
MOST_AT_ONCE = 100


class Disposal:
    """Any number of ingress processes may do it at once. With storage away, it is done later."""

    def __init__(self, unwanted: Unwanted, storage: Storage) -> None:
        self._unwanted = unwanted
        self._storage = storage
        self._rounds = Rounds(EVERY_S, [self.dispose])

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        await self._rounds.aclose()

    async def dispose(self) -> None:
        """All that is due."""
        while keys := await self._unwanted.take(MOST_AT_ONCE):
            await self._storage.delete(keys)
            await self._unwanted.forget(keys)
