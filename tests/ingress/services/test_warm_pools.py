"""Warm targets of the configuration and of operators: what is in force, and what replicas hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from serve_app.domain.audit.acts import Actor
from serve_app.domain.operations import WarmTarget, WeightsLevel
from serve_app.domain.request import CancelVerdict
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.ingress.services.warm_pools import WarmPools
from serve_app.queue.state.warm import HeldWeights, Keep
from serve_app.settings import PoolConfig
from serve_app.settings.pools import WarmConfig
from tests.fakes.clock import FakeClock
from tests.fakes.held_weights import FakeHeldWeights, FakeLeader
from tests.fakes.operations import FakeOperations
from tests.ingress.house import CATALOG

PROBE = "test/probe"
MORNING = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)  # a Monday
DAY = WarmConfig(endpoint=PROBE, replicas=2, hours="08:00-20:00", days="mon-fri")
HOT = WeightsLevel.HOT
ADMIN = Actor("key")


def replica(name: str, *hot: str, keep: Keep | None = None, **changes: object) -> HeldWeights:
    usual = {"host": frozenset[str](), "disk": frozenset[str](), "not_kept": {}}
    fields = {"pool": "probes", "stage": "ready", **usual, **changes}
    return HeldWeights(replica_id=name, hot=frozenset(hot), keep=keep, **fields)  # type: ignore[arg-type]


async def _unused(*_: object) -> CancelVerdict:
    """Cancellation, which no test here asks for."""
    return CancelVerdict.ALREADY_FINAL


class Scene:
    def __init__(self, *replicas: HeldWeights, leads: bool = True, **pool: object) -> None:
        self.clock = FakeClock(MORNING)
        self.weights = FakeHeldWeights(*replicas)
        self.operations = FakeOperations(
            *(self.clock, {}, _unused, lambda *_: None, lambda: None, lambda *_: None)
        )
        config = PoolConfig.model_validate({"families": ("probe",), "max_replicas": 4, **pool})
        self.pools = PoolMap({"probes": config, "others": PoolConfig(families=("flux",))})
        leader = FakeLeader(leads=leads)
        self.warm = WarmPools(
            self.operations, self.weights, lambda: self.pools, CATALOG, self.clock, leader
        )

    async def set(self, endpoint: str = PROBE, replicas: int = 1, until: float = 60) -> None:
        end = self.clock.now() + timedelta(seconds=until)
        await self.operations.set_warm(WarmTarget(endpoint, replicas, HOT, end), ADMIN)

    def keep(self, replica_id: str) -> Keep | None:
        return self.weights.replicas[replica_id].keep


async def test_a_pool_is_kept_warm_in_the_hours_of_its_configuration() -> None:
    scene = Scene(replica("r1"), warm=(DAY,))
    await scene.warm.look()
    assert (scene.warm.replicas(), scene.keep("r1")) == ({}, None)
    scene.clock.advance(1800)  # it is eight
    await scene.warm.look()
    assert (scene.warm.replicas(), scene.keep("r1")) == ({"probes": 2}, ((PROBE, HOT),))
    scene.clock.advance(12 * 3600)
    await scene.warm.look()
    assert (scene.warm.replicas(), scene.keep("r1")) == ({}, ())


async def test_an_operators_target_ends_when_its_time_is_over() -> None:
    scene = Scene(replica("r1"), replica("r2"))
    await scene.set(until=60)
    await scene.warm.look()
    assert scene.warm.replicas() == {"probes": 1}
    assert [scene.keep("r1"), scene.keep("r2")] == [((PROBE, HOT),), ()]
    scene.clock.advance(60)
    await scene.warm.look()
    assert (scene.warm.replicas(), scene.keep("r1")) == ({}, ())


async def test_replicas_alone_may_be_kept_warm() -> None:
    scene = Scene(replica("r1"), warm=(WarmConfig(replicas=3),))
    await scene.warm.look()
    assert (scene.warm.replicas(), scene.keep("r1")) == ({"probes": 3}, None)
    (state,) = scene.warm.states
    assert (state.ready, state.endpoint) == (1, "")
    assert scene.weights.pools == frozenset()  # no replica waits for a decision


async def test_a_target_says_how_many_replicas_are_ready_and_why_others_are_not() -> None:
    keep = ((PROBE, HOT),)
    full = replica("r2", keep=keep, not_kept={PROBE: "It has no room."})
    coming = replica("r3", PROBE, stage="starting")
    scene = Scene(replica("r1", PROBE, keep=keep), full, coming)
    await scene.set(replicas=3)
    await scene.warm.look()
    (state,) = scene.warm.states
    assert (state.ready, state.problems) == (1, ("r2: It has no room.",))


async def test_a_target_without_effect_says_why_and_keeps_nothing() -> None:
    elsewhere = WarmConfig(endpoint="gone/model")
    scene = Scene(replica("r1"), warm=(elsewhere,))
    scene.pools = PoolMap(
        {
            **scene.pools.configured,
            "others": PoolConfig(families=("flux",), warm=(WarmConfig(endpoint=PROBE),)),
        }
    )
    await scene.warm.look()
    assert {state.problems[0] for state in scene.warm.states} == {
        "The catalogue has no endpoint gone/model.",
        "test/probe runs in the pool probes, not in others.",
    }
    assert scene.warm.replicas() == {}


async def test_a_target_above_a_lowered_maximum_says_so() -> None:
    scene = Scene(max_replicas=1)
    await scene.set(replicas=2)
    await scene.warm.look()
    (state,) = scene.warm.states
    assert "max_replicas" in state.problems[0]


async def test_only_the_leader_decides_and_only_when_something_changes() -> None:
    scene = Scene(replica("r1"), leads=False)
    await scene.set()
    await scene.warm.look()
    assert (scene.weights.writes, scene.warm.replicas()) == (0, {"probes": 1})
    leading = Scene(replica("r1"))
    await leading.set()
    for _ in range(3):
        await leading.warm.look()
    assert leading.weights.writes == 1


async def test_an_overflow_pool_may_be_kept_warm_for_endpoints_of_the_first_pool() -> None:
    scene = Scene(replica("r1"), replica("o1", pool="others"))
    others = PoolConfig(
        families=("probe",), overflow_of="probes", warm=(WarmConfig(endpoint=PROBE),)
    )
    scene.pools = PoolMap({**scene.pools.configured, "others": others})
    await scene.warm.look()
    assert scene.warm.replicas() == {"others": 1}
    assert (scene.keep("r1"), scene.keep("o1")) == (None, ((PROBE, HOT),))
