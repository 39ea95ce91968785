"""Figures of the pools over the last day, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from serve_app.domain.lease import Demand, Presence, ReplicaStage
from serve_app.domain.operations import PoolSample
from serve_app.domain.ports import Clock
from serve_app.queue.pool_history import KEPT

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FakePoolHistory:
    """Implements ``PoolHistory``."""

    def __init__(
        self,
        clock: Clock,
        demand: Callable[[], Awaitable[Mapping[str, Demand]]],
        presence: Mapping[str, Presence],
    ) -> None:
        self._clock = clock
        self._demand = demand
        self._presence = presence
        self._samples: list[PoolSample] = []

    async def sample(self) -> None:
        now = self._clock.now()
        stages = self._presence.values()
        ready = Counter(replica.pool for replica in stages if replica.stage is ReplicaStage.READY)
        demand = await self._demand()
        self._samples = [sample for sample in self._samples if sample.at >= now - KEPT]
        for pool in {*demand, *ready}:
            pool_demand = demand.get(pool, Demand())
            figures = (
                pool_demand.queued,
                pool_demand.running,
                ready[pool],
                pool_demand.oldest_wait_s,
            )
            self._samples.append(PoolSample(pool, _bin(now, timedelta(minutes=1)), *figures))

    async def read(self, span: timedelta, step: timedelta) -> Sequence[PoolSample]:
        since = _bin(self._clock.now() - span, step)
        binned = sorted(
            (
                (sample.pool, _bin(sample.at, step), sample)
                for sample in self._samples
                if sample.at >= since
            ),
            key=lambda entry: entry[:2],
        )
        return [_largest(*key, [e for *_, e in of]) for key, of in groupby(binned, lambda e: e[:2])]


def _bin(at: datetime, step: timedelta) -> datetime:
    return at - (at - EPOCH) % step


def _largest(pool: str, at: datetime, samples: Sequence[PoolSample]) -> PoolSample:
    return PoolSample(
        pool,
        at,
        max(sample.queued for sample in samples),
        max(sample.running for sample in samples),
        max(sample.replicas for sample in samples),
        max(sample.wait_s for sample in samples),
    )
