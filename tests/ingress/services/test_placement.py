"""A pool that no node can take is reported with the missing resources."""

import pytest

from serve_app.ingress.services.health import PlacementCheck, Resources
from serve_app.settings import PoolConfig

SMALL: Resources = {"CPU": 4.0, "memory": 1e9}
L4: Resources = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}


def placement(pool: PoolConfig, *nodes: Resources, free: Resources | None = None) -> PlacementCheck:
    whole: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.items():
            whole[name] = whole.get(name, 0.0) + amount
    return PlacementCheck({"flux": pool}, lambda: nodes, lambda: whole if free is None else free)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (
            PoolConfig(families=("flux",), num_gpus=2),
            "a replica needs 2 GPU, but the most that one of 2 nodes has is 1 GPU",
        ),
        (
            PoolConfig(families=("flux",), num_gpus=1, accelerator="H100"),
            "a replica needs a GPU of the class H100, but none of 2 nodes has one",
        ),
        (
            PoolConfig(families=("flux",), resources={"fast_disk": 1}),
            "a replica needs 1 fast_disk, but the most that one of 2 nodes has is 0 fast_disk",
        ),
    ],
)
async def test_what_no_node_has_enough_of_is_named(pool: PoolConfig, message: str) -> None:
    problems = await placement(pool, SMALL, L4).problems([])
    assert message in problems["flux"]


async def test_what_is_there_but_on_no_single_node_is_said() -> None:
    pool = PoolConfig(families=("flux",), num_gpus=1, resources={"fast_disk": 1})
    problems = await placement(pool, {**SMALL, "fast_disk": 1.0}, L4).problems([])
    assert "needs 0.1 CPU, 1 GPU, 1 fast_disk on one node" in problems["flux"]


async def test_what_others_hold_is_said() -> None:
    pool = PoolConfig(families=("flux",), num_gpus=1)
    problems = await placement(pool, L4, free={"CPU": 7.0}).problems([])
    assert "a replica needs 1 GPU, but only 0 GPU is free in the whole cluster" in problems["flux"]


async def test_a_pool_that_fits_or_has_a_replica_is_no_problem() -> None:
    pool = PoolConfig(families=("flux",), num_gpus=1)
    assert await placement(pool, SMALL, L4).problems([]) == {}
    assert await placement(pool, SMALL).problems(["flux"]) == {}
    assert "flux" in await placement(pool, SMALL).problems([])


async def test_clients_are_told_of_what_fits_nowhere_and_not_of_what_others_hold() -> None:
    pool = PoolConfig(families=("flux",), num_gpus=1)
    assert await placement(pool, L4, free={}).unplaceable([]) == {}
    assert await placement(pool, SMALL).unplaceable(["flux"]) == {}
    assert "needs 1 GPU" in (await placement(pool, SMALL).unplaceable([]))["flux"]
