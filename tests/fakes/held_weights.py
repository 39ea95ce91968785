"""What replicas hold and should hold, in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from serve_app.queue.state.warm import HeldWeights, Keep


class FakeLeader:
    """An ingress that leads, or does not."""

    def __init__(self, *, leads: bool = True) -> None:
        self._leads = leads

    async def leads(self, name: str) -> bool:
        del name
        return self._leads


class FakeHeldWeights:
    """``replicas``: by id; a test changes them."""

    def __init__(self, *replicas: HeldWeights) -> None:
        self.replicas = {replica.replica_id: replica for replica in replicas}
        self.pools: frozenset[str] = frozenset()  # with a warm target, as it was told last
        self.writes = 0

    async def refresh(self, pools: Collection[str]) -> Sequence[HeldWeights]:
        self.pools = frozenset(pools)
        return [*self.replicas.values()]

    async def write(self, keep: Mapping[str, Keep]) -> None:
        self.writes += 1
        for id_, retention in keep.items():
            self.replicas[id_] = replace(self.replicas[id_], keep=retention)
