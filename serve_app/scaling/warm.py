"""Warm targets of a pool: how many replicas they need, and which replica should hold what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serve_app.domain.operations import WeightsLevel

_LEVELS = tuple(WeightsLevel)

Kept = tuple[tuple[str, WeightsLevel], ...]
"""Endpoints whose weights a replica should hold, each with its level. The first ones go first."""


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """Warm target that is in force. ``endpoint`` is empty for replicas that hold nothing."""

    endpoint: str
    replicas: int
    level: WeightsLevel


@dataclass(frozen=True, slots=True)
class Holder:
    """Replica, and the endpoints whose weights it holds, as it said last."""

    replica_id: str
    hot: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()
    disk: frozenset[str] = frozenset()
    assigned: Kept = ()  # what it should hold so far
    not_kept: frozenset[str] = frozenset()  # what it cannot hold

    def holds(self, endpoint: str, level: WeightsLevel) -> bool:
        """True if the weights are at this level or a faster one."""
        places = self.hot, self.host, self.disk
        return any(endpoint in place for place in places[: _LEVELS.index(level) + 1])


def combine_targets(targets: Iterable[PoolTarget]) -> Sequence[PoolTarget]:
    """One target for each endpoint: the most replicas and the fastest level of several. The fastest
    levels come first."""
    by_endpoint: dict[str, PoolTarget] = {}
    for target in targets:
        other = by_endpoint.get(target.endpoint, target)
        by_endpoint[target.endpoint] = PoolTarget(
            target.endpoint,
            max(target.replicas, other.replicas),
            min(target.level, other.level, key=_LEVELS.index),
        )
    return sorted(
        by_endpoint.values(), key=lambda entry: (_LEVELS.index(entry.level), entry.endpoint)
    )


def replicas_for(targets: Iterable[PoolTarget]) -> int:
    """Replicas that a pool needs for its targets. A replica holds several endpoints, so this is the
    largest number of any target. Weights on disk need no replica: one fetches them when it runs.
    """
    return max(
        (target.replicas for target in targets if target.level is not WeightsLevel.DISK), default=0
    )


def assign_targets(targets: Sequence[PoolTarget], holders: Sequence[Holder]) -> Mapping[str, Kept]:
    """Weights that each replica should hold, by its id.

    A target stays with replicas that hold it, so nothing is loaded twice because another replica
    comes. Otherwise it goes to the replicas that have the least to hold. Replicas that have no room
    for it come last.
    """
    kept: dict[str, list[tuple[str, WeightsLevel]]] = {
        replica.replica_id: [] for replica in holders
    }
    for target in combine_targets(targets):
        if not target.endpoint:
            continue
        endpoint = target.endpoint

        def order(holder: Holder, endpoint: str = endpoint) -> tuple[object, ...]:
            return (
                endpoint in holder.not_kept,
                all(endpoint != name for name, _ in holder.assigned),
                endpoint not in holder.hot,
                endpoint not in holder.host,
                len(kept[holder.replica_id]),
                holder.replica_id,
            )

        for holder in sorted(holders, key=order)[: target.replicas]:
            kept[holder.replica_id].append((endpoint, target.level))
    return {replica_id: tuple(weights) for replica_id, weights in kept.items()}
