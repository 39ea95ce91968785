"""Liveness of replicas over a table of actors."""

from __future__ import annotations

from serve_app.scaling.liveness import SHARED_S, RayLiveness
from tests.fakes.clock import FakeClock


class CountedTable:
    """Actor table in memory that counts the round trips."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.calls = 0
        self.is_connected = True

    def connected(self) -> bool:
        return self.is_connected

    def alive(self) -> frozenset[str]:
        self.calls += 1
        return frozenset(one for one, state in self.states.items() if state == "ALIVE")

    def state(self, actor_id: str) -> str | None:
        self.calls += 1
        return self.states.get(actor_id)


TABLE = {"a": "ALIVE", "b": "RESTARTING", "c": "DEAD"}


async def test_an_actor_is_dead_only_if_ray_says_so() -> None:
    liveness = RayLiveness(CountedTable(**TABLE), FakeClock(), sole_cluster=True)
    assert await liveness.dead(["a", "b", "c", "unknown"]) == {"c"}
    assert await liveness.of_previous_run(["a", "b", "c", "unknown"]) == {"unknown"}


async def test_an_unknown_actor_of_a_shared_database_may_belong_to_another_cluster() -> None:
    liveness = RayLiveness(CountedTable(**TABLE), FakeClock(), sole_cluster=False)
    assert await liveness.of_previous_run(["a", "unknown"]) == frozenset()


async def test_a_round_over_many_living_actors_is_one_call() -> None:
    table = CountedTable(**{f"actor-{n}": "ALIVE" for n in range(2000)}, gone="DEAD")
    liveness = RayLiveness(table, FakeClock(), sole_cluster=True)
    actors = [*table.states]
    assert await liveness.of_previous_run(actors) == frozenset()
    assert await liveness.dead(actors) == {"gone"}
    assert table.calls == 2  # the list, and the one that is not alive


async def test_the_next_round_sees_a_death() -> None:
    table, clock = CountedTable(**TABLE), FakeClock()
    liveness = RayLiveness(table, clock, sole_cluster=True)
    assert await liveness.dead(["a"]) == frozenset()
    table.states["a"] = "DEAD"
    clock.advance(2 * SHARED_S)
    assert await liveness.dead(["a"]) == {"a"}


async def test_without_ray_no_actor_is_dead() -> None:
    table = CountedTable(**TABLE)
    table.is_connected = False
    liveness = RayLiveness(table, FakeClock(), sole_cluster=True)
    assert await liveness.dead(["c"]) == frozenset()
    assert await liveness.of_previous_run(["unknown"]) == frozenset()
