"""Pools that take requests from another pool's queue: its overflow, or a part of all as a canary.

Each request has one queue, which has the name of a pool. A pool with ``overflow_of`` has no queue
of its own: its replicas lease from the queue at the head of its chain, such as spot → on-demand →
another class of GPU. Fairness, limits and positions are therefore those of one queue. A pool with
``canary_of`` leases beside that pool, not after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class OverflowPools:
    """Chains of pools. ``before``: pool → the pool whose overflow it takes, or whose canary it is;
    it has no cycles.

    ``endpoints``: the only ones that such a pool takes; missing or empty: all of the queue.
    ``device_bytes``: memory of its GPUs, if its settings say it. ``canaries``: those of them that
    are canaries, each with a digest of what its replicas run.
    """

    before: Mapping[str, str] = field(default_factory=dict[str, str])
    endpoints: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    device_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    canaries: Mapping[str, str] = field(default_factory=dict[str, str])

    def queue_of(self, pool: str) -> str:
        """Pool whose queue the replicas of ``pool`` lease from: often itself."""
        while pool in self.before:
            pool = self.before[pool]
        return pool

    def rank(self, pool: str) -> int:
        """Number of pools that are filled before this one."""
        rank = 0
        while pool in self.before:
            rank += pool not in self.canaries
            pool = self.before[pool]
        return rank

    def chain(self, queue: str) -> tuple[str, ...]:
        """Pools that lease from a queue, in the order in which they are filled."""
        return (queue, *self._behind.get(queue, ()))

    def fit_of(self, pool: str, device_bytes: int = 0) -> tuple[frozenset[str], int]:
        """Arguments of ``LeaseTerms.unfit`` for an overflow pool. ``device_bytes``: of the replica,
        if it says them."""
        named = self.endpoints.get(pool, frozenset[str]())
        return named, device_bytes or self.device_bytes.get(pool, 0)

    @cached_property
    def _behind(self) -> Mapping[str, tuple[str, ...]]:
        by_queue: dict[str, list[str]] = {}
        for pool in sorted(self.before, key=self.rank):
            by_queue.setdefault(self.queue_of(pool), []).append(pool)
        return {queue: tuple(pools) for queue, pools in by_queue.items()}


NO_OVERFLOW = OverflowPools()


def mistakes(pools: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each mistake. ``pools``: all, each with its ``overflow_of`` or ""."""
    followers: dict[str, str] = {}
    for pool, before in pools.items():
        if not before:
            continue
        if before == pool:
            yield f"{pool}.overflow_of is the pool itself. Name another pool, or remove the key."
        elif before not in pools:
            known = ", ".join(sorted(set(pools) - {pool})) or "none"
            yield f"{pool}.overflow_of is {before}, which is no pool. Other pools: {known}."
        elif before in followers:
            yield (
                f"{followers[before]}.overflow_of and {pool}.overflow_of are both {before}, and "
                f"each would scale for all that {before} cannot take. Make one of them the "
                f"overflow of the other: {pool}.overflow_of: {followers[before]}."
            )
        elif _is_in_cycle(pool, pools):
            yield (
                f"{pool}.overflow_of is {before}, whose own chain of overflow_of leads back to "
                f"{pool}. Remove overflow_of from the pool that should be filled first."
            )
        followers.setdefault(before, pool)


def canary_mistakes(canary_of: Mapping[str, str], before: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each mistake. ``canary_of``: the canaries. ``before``: as for
    ``mistakes``."""
    for pool, beside in canary_of.items():
        if beside not in before or beside in canary_of:
            known = ", ".join(sorted(before.keys() - canary_of.keys())) or "none"
            yield (
                f"{pool}.canary_of is {beside}, which is no pool, or a canary itself. "
                f"Other pools: {known}."
            )
        if before[pool]:
            yield f"{pool} has canary_of and overflow_of. Remove one of them."
    for pool, earlier in before.items():
        if earlier in canary_of:
            yield (
                f"{pool}.overflow_of is {earlier}, which is a canary. Name the pool that it is a "
                f"canary of: {canary_of[earlier]}."
            )


def _is_in_cycle(pool: str, pools: Mapping[str, str]) -> bool:
    seen, current = {pool}, pools[pool]
    while current and current not in seen:
        seen.add(current)
        current = pools.get(current, "")
    return current == pool
