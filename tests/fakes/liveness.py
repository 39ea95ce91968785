"""Which processes are dead, as a test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.domain.lease import Death


class FakeLiveness:
    cluster = "cluster"

    def __init__(self) -> None:
        self.buried: set[str] = set()  # their processes ended by themselves
        self.cut_off: set[str] = set()  # their node failed; their processes may live on
        self.stopped: set[str] = set()  # with the whole installation

    async def dead(self, actor_ids: Sequence[str]) -> Mapping[str, Death]:
        crashed = Death("its process ended", by_itself=True)
        cut_off = Death("its node failed", by_itself=False)
        return dict.fromkeys(self.cut_off.intersection(actor_ids), cut_off) | dict.fromkeys(
            self.buried.intersection(actor_ids), crashed
        )

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        return frozenset(self.stopped.intersection(actor_ids))
