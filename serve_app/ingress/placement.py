"""Which pools this Ray cluster has no node for, and what the nodes lack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ray

from serve_app.settings import PoolConfig

#: What a node has of each resource, as Ray names them.
Resources = Mapping[str, float]
Nodes = Callable[[], Sequence[Resources]]

_CLASS_OF_GPU = "accelerator_type:"  # Ray's prefix for it, with a token amount of 1 a node
_ADD = "Add such a node (an autoscaler may be doing so), or change what the pool asks for."


def alive_nodes() -> Sequence[Resources]:
    """All that each node has, whether taken or free; asks Ray, so it blocks."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> Resources:
    """What nobody has taken, over all nodes; asks Ray, so it blocks."""
    free: dict[str, Any] = ray.available_resources()
    return free


class Placement:
    """Where replicas of the configured pools could run."""

    def __init__(
        self,
        pools: Mapping[str, PoolConfig],
        nodes: Nodes = alive_nodes,
        free: Callable[[], Resources] = free_resources,
    ) -> None:
        self._needs = {name: _needs(pool) for name, pool in pools.items()}
        self._nodes = nodes
        self._free = free

    async def problems(self, hosted: Collection[str]) -> dict[str, str]:
        """A sentence for each pool that has no replica, is not among ``hosted``, and cannot get
        one: no node is large enough, or others hold what it needs."""
        missing = {name: needs for name, needs in self._needs.items() if name not in hosted}
        if not missing:
            return {}
        nodes, free = await asyncio.gather(
            asyncio.to_thread(self._nodes), asyncio.to_thread(self._free)
        )
        said = {name: _lack(needs, nodes) or _taken(needs, free) for name, needs in missing.items()}
        return {name: f"Pool {name}: {sentence}" for name, sentence in said.items() if sentence}


def _needs(pool: PoolConfig) -> dict[str, float]:
    devices = pool.devices_per_replica
    needs = {"CPU": devices * pool.num_cpus, "GPU": devices * pool.num_gpus, **pool.resources}
    if pool.accelerator is not None:
        needs[_CLASS_OF_GPU + pool.accelerator] = 0.001
    return {name: amount for name, amount in needs.items() if amount > 0}


def _lack(needs: Resources, nodes: Sequence[Resources]) -> str:
    """Why no node could take it even if it were empty, or nothing."""
    if any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes):
        return ""
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
    short = [name for name, amount in needs.items() if most[name] < amount]
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    if not short:
        return (
            f"a replica needs {_listed(needs)} on one node, and none of {count} has all of it. "
            f"{_ADD}"
        )
    wanted = _listed({name: needs[name] for name in short})
    found = ", ".join(
        f"{most[name]:g} {name}" for name in short if not name.startswith(_CLASS_OF_GPU)
    )
    has = f"the most that one of {count} has is {found}" if found else f"none of {count} has one"
    return f"a replica needs {wanted}, and {has}. {_ADD}"


def _taken(needs: Resources, free: Resources) -> str:
    """What others hold of it, or nothing."""
    short = [name for name, amount in needs.items() if free.get(name, 0.0) < amount]
    if not short:
        return ""
    wanted = _listed({name: needs[name] for name in short})
    found = ", ".join(f"{free.get(name, 0.0):g} {_named(name)}" for name in short)
    return (
        f"a replica needs {wanted}, and {found} is free in the whole cluster: others hold the "
        "rest. End them, add a node, or lower another pool's replicas."
    )


def _listed(needs: Resources) -> str:
    return ", ".join(
        _named(name) if name.startswith(_CLASS_OF_GPU) else f"{amount:g} {_named(name)}"
        for name, amount in needs.items()
    )


def _named(resource: str) -> str:
    if resource.startswith(_CLASS_OF_GPU):
        return f"a GPU of the class {resource.removeprefix(_CLASS_OF_GPU)}"
    return resource
