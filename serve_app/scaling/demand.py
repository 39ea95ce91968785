"""Publisher of each pool's bounds and demand for the scaling policies.

One ingress replica of each Ray cluster writes the demand of a pool; see ``clusters``.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

from ray.experimental import internal_kv

from serve_app.domain.lease import Demand
from serve_app.domain.rest import Rest
from serve_app.periodic_task import PeriodicTask
from serve_app.scaling.policy import NAMESPACE, Bounds, bounds_key, demand_key, target_key

WRITE_EVERY_S = 0.5
REST_S = 4.0
"""The same at rest: more often than ``LEADS_S`` of the election, by which clusters share pools."""
CLUSTER_KEY = b"cluster"


async def publish_bounds(scope: str, pools: Mapping[str, Bounds]) -> None:
    """Write the bounds of each pool to Ray's internal KV. Policies follow within a second."""
    for pool, bounds in pools.items():
        await _put(bounds_key(scope, pool), asdict(bounds))


async def read_targets(scope: str, pools: Collection[str]) -> Mapping[str, int]:
    """Replicas that the policies want now, by pool. Pools whose policy has not run are missing."""
    return await asyncio.to_thread(_targets, scope, pools)


def _targets(scope: str, pools: Collection[str]) -> Mapping[str, int]:
    raw_targets = {
        pool: internal_kv._internal_kv_get(  # noqa: SLF001 the only reader Ray offers
            target_key(scope, pool), namespace=NAMESPACE
        )
        for pool in pools
    }
    return {pool: int(json.loads(raw)["replicas"]) for pool, raw in raw_targets.items() if raw}


async def cluster_id() -> str:
    """Random id of this Ray cluster, the same for all its processes. It is kept in Ray's internal
    KV, so it lives as long as the control store. Addresses would not do: two machines that serve on
    their own have the same."""
    new_id = secrets.token_hex(8).encode()
    await asyncio.to_thread(
        internal_kv._internal_kv_put,  # noqa: SLF001 the only writer Ray offers
        CLUSTER_KEY,
        new_id,
        overwrite=False,
        namespace=NAMESPACE,
    )
    stored = await asyncio.to_thread(
        internal_kv._internal_kv_get,  # noqa: SLF001
        CLUSTER_KEY,
        namespace=NAMESPACE,
    )
    return (stored or new_id).decode()


class Share(Protocol):
    """Part of the demand that this process writes."""

    async def of(
        self, demands: Mapping[str, Demand], pools: Sequence[str]
    ) -> Mapping[str, Demand]: ...


class DemandWriter:
    """Task that writes its cluster's share of ``queue.demand()`` to Ray's internal KV twice a
    second."""

    def __init__(
        self,
        scope: str,
        pools: tuple[str, ...],
        demand: Callable[[], Awaitable[Mapping[str, Demand]]],
        share: Share,
        warm_replicas: Callable[[], Mapping[str, int]],
    ) -> None:
        """``warm_replicas``: those that warm targets need, by pool."""
        self._scope = scope
        self.pools = pools  # may be replaced at any time
        self._demand = demand
        self._share = share
        self._warm_replicas = warm_replicas
        self._sequence = 0
        # Ray's KV may be unavailable for a moment; the policies then keep their targets.
        self._rounds = PeriodicTask(WRITE_EVERY_S, {"write demand": self._write}, rest_s=REST_S)

    async def start(self, rest: Rest | None = None) -> None:
        """``rest``: None for none."""
        self._rounds.start(rest)

    async def aclose(self) -> None:
        await self._rounds.aclose()

    async def _write(self) -> None:
        demands = await self._share.of(await self._demand(), self.pools)
        self._sequence += 1
        warm = self._warm_replicas()
        for pool, demand in demands.items():
            record = asdict(demand) | {"seq": self._sequence, "warm": warm.get(pool, 0)}
            await _put(demand_key(self._scope, pool), record)


async def _put(key: bytes, record: Mapping[str, object]) -> None:
    await asyncio.to_thread(
        internal_kv._internal_kv_put,  # noqa: SLF001 the only writer Ray offers
        key,
        json.dumps(record).encode(),
        namespace=NAMESPACE,
    )
