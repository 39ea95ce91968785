"""What an ingress process holds in memory, and any process may change in the database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from serve_app.domain.rest import Rest
from serve_app.periodic_task import PeriodicTask
from serve_app.queue.store.notify import Notifier

LOOK_EVERY_S = 1.0


class Followed(ABC):
    """Looks once a second what has changed. A process that changes something has all processes see
    it before it answers: the client's next call may go to any of them."""

    def __init__(self, name: str) -> None:
        """``name``: of its periodic task."""
        self.refresh_others: Callable[[], Awaitable[None]] = _no_others
        self._rounds = PeriodicTask(LOOK_EVERY_S, {name: self.refresh})

    @abstractmethod
    async def refresh(self) -> None:
        """Put in force here what has changed."""

    async def put_in_force(self) -> None:
        """Put in force what this process has changed, here and in the others."""
        await self.refresh()
        await self.refresh_others()

    def follow(self, rest: Rest | None = None) -> None:
        """Follow the changes of other processes."""
        self._rounds.start(rest)

    async def aclose(self) -> None:
        await self._rounds.aclose()


def share_changes(notifier: Notifier, followed: Sequence[Followed]) -> None:
    """Have the other processes see what is put in force here, and this one what they put."""

    async def refresh() -> None:
        for part in followed:
            await part.refresh()

    notifier.on_refresh = refresh
    for part in followed:
        part.refresh_others = notifier.refresh_others


async def _no_others() -> None:
    """Refresh the others of a process that is alone."""
