"""Estimates of cold starts, also of the very first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.progress import Loading, Progress, Stage, to_plain
from serve_app.domain.request import Priority, Request, State, WaitReason
from serve_app.queue.fairness.cost_model import CostModel
from serve_app.queue.state.cold_start import ASSUMED_S, MAX_SHARE, ColdStage, ColdStarts
from serve_app.queue.state.eta import EtaModel
from serve_app.queue.state.positions import QueuePosition
from serve_app.telemetry.queue_metrics import QueueMeter
from tests.fakes.clock import FakeClock
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL as TESTED
from tests.queue.requests import new
from tests.queue.state.test_eta import POOL, SimulatedPool

FLUX = "flux"
GB = 10**9


class ColdPool:
    """A pool whose first replica starts, with a clock that the test moves."""

    def __init__(self) -> None:
        tables = SimulatedPool(1)
        self.clock: FakeClock = tables.clock
        self.costs: CostModel = tables.costs
        self.eta: EtaModel = tables.forecast
        self.started: CollectorRegistry = tables.registry
        self.registry = CollectorRegistry()
        self.cold = ColdStarts(self.clock, self.costs, QueueMeter(self.registry))

    async def learn(self) -> None:
        await self.costs.refresh()

    def loads(self, *loading: Loading) -> Sequence[Presence]:
        presence = Presence("r1", "a1", POOL, ReplicaStage.READY, loading=to_plain(loading))
        self.cold.note_loads([presence])
        return [presence]


@pytest.fixture
def pool() -> ColdPool:
    return ColdPool()


def request(progress: Progress | None = None, state: State = State.QUEUED) -> Request:
    now = FakeClock().now()
    base = Request("r", "ann", FLUX, POOL, state, {}, Priority.NORMAL, 0, 0, now, work=1.0)
    return replace(base, progress=progress, replica_id="r1")


def starting(name: str = "r1") -> Presence:
    return Presence(name, "a1", POOL, ReplicaStage.STARTING)


def test_the_first_start_of_all_has_a_share_and_an_end_from_its_first_moment(
    pool: ColdPool,
) -> None:
    next_one, second = QueuePosition(0, 0.0), QueuePosition(1, 1.0)
    share, starts_s = pool.eta.until_replica(request(), next_one)
    assumed_s = ASSUMED_S[ColdStage.STARTING]
    assert (share, starts_s) == (0.0, ASSUMED_S[ColdStage.NODE] + assumed_s)
    assert pool.eta.until_replica(request(), second) == (0.0, None)  # who knows how long one takes
    pool.clock.advance(3.0)
    pool.eta.replica_seen(starting(), 2)
    assert pool.eta.start_progress(POOL) == 0.0
    assert pool.eta.until_start_s(request(), next_one) == assumed_s
    assert pool.eta.until_start_s(request(), second) is None
    pool.clock.advance(assumed_s / 2)
    assert pool.eta.start_progress(POOL) == 0.5


async def test_the_next_start_takes_what_the_first_one_took_and_so_do_those_of_other_pools(
    pool: ColdPool,
) -> None:
    pool.eta.until_replica(request(), QueuePosition(0, 0.0))
    pool.clock.advance(4.0)
    pool.eta.replica_seen(starting(), 1)
    pool.clock.advance(8.0)
    pool.eta.replica_seen(replace(starting(), stage=ReplicaStage.READY), 1)
    await pool.learn()
    for name in (POOL, "other"):
        assert pool.cold.expected_s(ColdStage.STARTING, name) == pytest.approx(8.0)
        assert pool.cold.expected_s(ColdStage.NODE, name) == pytest.approx(4.0)


async def test_a_wait_that_nobody_asks_about_any_more_teaches_nothing(pool: ColdPool) -> None:
    pool.eta.until_replica(request(), QueuePosition(0, 0.0))
    pool.clock.advance(3600.0)
    pool.eta.replica_seen(starting(), 1)
    await pool.learn()
    assert pool.cold.expected_s(ColdStage.NODE, POOL) == ASSUMED_S[ColdStage.NODE]


async def test_a_load_is_estimated_by_its_bytes_and_rate_and_by_the_stages_behind_it(
    pool: ColdPool,
) -> None:
    per_gb = ASSUMED_S[ColdStage.DOWNLOADING], ASSUMED_S[ColdStage.LOADING]
    download = Loading((FLUX, "other"), Stage.DOWNLOADING, 0, 10 * GB)
    pool.loads(download)
    estimate = pool.cold.loads("r1", FLUX)
    assert estimate is not None
    assert (estimate.share, estimate.left_s) == (0.0, pytest.approx(10 * sum(per_gb)))
    pool.clock.advance(4.0)
    pool.loads(replace(download, done=2 * GB))
    estimate = pool.cold.loads("r1", "other")
    assert estimate is not None
    assert estimate.share == pytest.approx(0.2)
    assert estimate.left_s == pytest.approx(16.0 + 10 * per_gb[1])  # 0.5 GB/s so far
    pool.clock.advance(16.0)
    pool.loads(replace(download, done=10 * GB))
    pool.loads(Loading((FLUX, "other"), Stage.LOADING, 0, 10 * GB))
    pool.clock.advance(5.0)
    pool.loads(Loading((FLUX, "other"), Stage.LOADING, 5 * GB, 10 * GB))
    pool.loads(Loading((FLUX, "other"), Stage.COMPILING))
    pool.clock.advance(30.0)
    estimate = pool.cold.loads("r1", FLUX)
    assert estimate is not None
    assert estimate.share == pytest.approx(30.0 / ASSUMED_S[ColdStage.COMPILING])
    pool.loads()
    assert pool.cold.loads("r1", FLUX) is None
    await pool.learn()
    for name in (POOL, "elsewhere"):
        assert pool.cold.expected_s(ColdStage.DOWNLOADING, name, 1.0) == pytest.approx(2.0)
        assert pool.cold.expected_s(ColdStage.LOADING, name, 1.0) == pytest.approx(1.0)
        assert pool.cold.expected_s(ColdStage.COMPILING, name) == pytest.approx(30.0)
    # Now that a load of the pool has been compiled, compiling is expected behind each load.
    pool.loads(Loading((FLUX,), Stage.LOADING, 0, 10 * GB))
    estimate = pool.cold.loads("r1", FLUX)
    assert estimate is not None
    assert estimate.left_s == pytest.approx(10.0 + 30.0)


def test_each_stage_that_ended_is_measured_with_its_pool(pool: ColdPool) -> None:
    def measured() -> dict[str, float | None]:
        labels = [{"pool": POOL, "stage": stage} for stage in ColdStage]
        name = "darkroom_cold_start_seconds_sum"
        values = {
            label_set["stage"]: pool.registry.get_sample_value(name, label_set)
            for label_set in labels
        }
        return {stage: value for stage, value in values.items() if value is not None}

    pool.cold.waits(POOL)
    pool.clock.advance(4.0)
    pool.cold.note_announcement(POOL)
    pool.loads(Loading((FLUX, "other"), Stage.DOWNLOADING, 0, 10 * GB))
    pool.clock.advance(16.0)
    assert measured() == {"waiting_for_node": 4.0}
    pool.loads(Loading((FLUX, "other"), Stage.LOADING, 0, 10 * GB))
    pool.clock.advance(0.25)  # too short for a rate, but it is a time
    pool.loads(Loading((FLUX, "other"), Stage.WARMING_UP))
    pool.clock.advance(3.0)
    pool.loads()
    assert measured() == {
        "waiting_for_node": 4.0,
        "downloading": 16.0,
        "loading": 0.25,
        "warming_up": 3.0,
    }


def test_the_start_of_a_replica_is_measured_when_it_is_ready(pool: ColdPool) -> None:
    pool.eta.replica_seen(starting(), 1)
    pool.clock.advance(8.0)
    for _ in range(2):
        pool.eta.replica_seen(replace(starting(), stage=ReplicaStage.READY), 1)
    labels = {"pool": POOL, "stage": "starting"}
    value = pool.started.get_sample_value
    assert value("darkroom_cold_start_seconds_sum", labels) == 8.0
    assert value("darkroom_cold_start_seconds_count", labels) == 1


async def test_a_stage_of_a_replica_that_died_teaches_nothing(pool: ColdPool) -> None:
    pool.loads(Loading((FLUX,), Stage.COMPILING))
    pool.clock.advance(1.0)
    pool.cold.note_loads([])
    await pool.learn()
    assert pool.cold.expected_s(ColdStage.COMPILING, POOL) == ASSUMED_S[ColdStage.COMPILING]


@given(st.floats(0.0, 1e5), st.floats(0.1, 1e4))
def test_a_stage_is_never_over_before_its_end_and_never_has_less_than_no_time(
    elapsed_s: float, took_s: float
) -> None:
    pool = ColdPool()
    pool.cold.took(ColdStage.STARTING, POOL, took_s)
    began = pool.clock.monotonic()
    pool.clock.advance(elapsed_s)
    estimate = pool.cold.starting(POOL, began)
    assert 0.0 <= estimate.share <= MAX_SHARE
    assert estimate.left_s > 0


async def test_the_first_request_of_a_pool_is_told_its_stage_until_it_runs(
    ingress: Ingress,
) -> None:
    queue = await ingress(LONG_LEASES)
    first, second = await queue.submit(new()), await queue.submit(new())
    assert (await queue.waiting(first)).starts_at is None  # nothing starts a replica here
    queue.parts.state.stats.startable = frozenset({TESTED})
    waiting = await queue.waiting(first)
    assert (waiting.reason, waiting.stage) == (WaitReason.NO_REPLICA, ColdStage.NODE)
    assert waiting.share is not None
    assert waiting.starts_at is not None
    assert (await queue.waiting(second)).starts_at is None
    await queue.announce(Presence("r1", "actor-r1", TESTED, ReplicaStage.STARTING))
    waiting = await queue.waiting(first)
    assert (waiting.reason, waiting.stage) == (WaitReason.COLD_START, ReplicaStage.STARTING)
    assert waiting.share is not None
    assert waiting.starts_at is not None
