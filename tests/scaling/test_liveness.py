"""Liveness of replicas over a table of actors."""

from __future__ import annotations

import asyncio

import pytest
from ray.core.generated.common_pb2 import (
    ActorDeathCause,
    ActorDiedErrorContext,
    OomContext,
)

from serve_app.domain.lease import Death
from serve_app.scaling.liveness import SHARED_S, ActorState, RayLiveness, death_of
from tests.fakes.clock import FakeClock

CRASH = Death("its process ended", by_itself=True)


class CountedTable:
    """Actor table in memory that counts the round trips."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.calls = 0
        self.connected = True

    def is_connected(self) -> bool:
        return self.connected

    def alive(self) -> frozenset[str]:
        self.calls += 1
        return frozenset(actor_id for actor_id, state in self.states.items() if state == "ALIVE")

    def state(self, actor_id: str) -> ActorState:
        self.calls += 1
        name = self.states.get(actor_id, "")
        return ActorState(name, CRASH if name == "DEAD" else None)


TABLE = {"a": "ALIVE", "b": "RESTARTING", "c": "DEAD"}


async def test_an_actor_is_dead_only_if_ray_says_so() -> None:
    liveness = RayLiveness(CountedTable(**TABLE), FakeClock(), sole_cluster=True)
    assert await liveness.dead(["a", "b", "c", "unknown"]) == {"c": CRASH}
    assert await liveness.of_previous_run(["a", "b", "c", "unknown"]) == {"unknown"}


async def test_an_unknown_actor_of_a_shared_database_may_belong_to_another_cluster() -> None:
    liveness = RayLiveness(CountedTable(**TABLE), FakeClock(), sole_cluster=False)
    assert await liveness.of_previous_run(["a", "unknown"]) == frozenset()


async def test_a_round_over_many_living_actors_is_one_call() -> None:
    table = CountedTable(**{f"actor-{n}": "ALIVE" for n in range(2000)}, gone="DEAD")
    liveness = RayLiveness(table, FakeClock(), sole_cluster=True)
    actors = [*table.states]
    assert await liveness.of_previous_run(actors) == frozenset()
    assert await liveness.dead(actors) == {"gone": CRASH}
    assert table.calls == 2  # the list, and the one that is not alive


async def test_the_next_round_sees_a_death() -> None:
    table, clock = CountedTable(**TABLE), FakeClock()
    liveness = RayLiveness(table, clock, sole_cluster=True)
    assert await liveness.dead(["a"]) == {}
    table.states["a"] = "DEAD"
    clock.advance(2 * SHARED_S)
    assert await liveness.dead(["a"]) == {"a": CRASH}


async def test_two_that_ask_at_once_for_other_actors_get_their_own() -> None:
    liveness = RayLiveness(CountedTable(**TABLE), FakeClock(), sole_cluster=True)
    answers = await asyncio.gather(liveness.dead(["a", "c"]), liveness.of_previous_run(["unknown"]))
    assert answers == [{"c": CRASH}, {"unknown"}]


async def test_without_ray_no_actor_is_dead() -> None:
    table = CountedTable(**TABLE)
    table.connected = False
    liveness = RayLiveness(table, FakeClock(), sole_cluster=True)
    assert await liveness.dead(["c"]) == {}
    assert await liveness.of_previous_run(["unknown"]) == frozenset()


@pytest.mark.parametrize(
    ("reason", "by_itself"),
    [
        ("WORKER_DIED", True),
        ("NODE_DIED", False),
        ("RAY_KILL", False),
        ("OWNER_DIED", False),
        ("UNSPECIFIED", False),
    ],
)
def test_only_a_process_that_ended_by_itself_may_have_been_ended_by_its_requests(
    reason: str, *, by_itself: bool
) -> None:
    context = ActorDiedErrorContext(reason=ActorDiedErrorContext.Reason.Value(reason))
    assert death_of(ActorDeathCause(actor_died_error_context=context)).by_itself is by_itself


def test_so_may_one_that_ray_ended_for_the_memory_of_its_node() -> None:
    assert death_of(ActorDeathCause(oom_context=OomContext())).by_itself
    assert not death_of(ActorDeathCause()).by_itself
