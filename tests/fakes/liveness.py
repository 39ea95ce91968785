"""Which processes are dead, as a test says."""

from __future__ import annotations

from collections.abc import Sequence


class FakeLiveness:
    def __init__(self) -> None:
        self.buried: set[str] = set()
        self.stopped: set[str] = set()  # with the whole installation

    async def dead(self, actor_ids: Sequence[str]) -> frozenset[str]:
        return frozenset(self.buried.intersection(actor_ids))

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        return frozenset(self.stopped.intersection(actor_ids))
