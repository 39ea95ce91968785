"""Expected time of a cold start, stage by stage, also of the very first one.

A stage takes what it took before in this pool, or else in other pools, or else what is assumed
here. Stages of bytes take their bytes over the rate: that of this load, or else of loads before.
The times are learned from what replicas say they are doing, and stored with the other costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from serve_app.domain.lease import Presence
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Loading, Stage, from_plain
from serve_app.queue.fairness.cost_model import START_KEY, CostModel
from serve_app.telemetry.queue_metrics import QueueMeter

GIGABYTE = 1e9
MAX_SHARE = 0.99  # highest share reported for a stage that takes longer than expected
OVERRUN_FRACTION = 0.1
"""A stage that takes longer than expected is assumed to need another tenth of its time so far."""
SEEN_WITHIN_S = 10.0
"""A wait for a replica is seen when a client asks about it. It ends when none asks for so long."""
MIN_MEASURED_S = 1.0  # shortest time after which the rate of a load counts


class ColdStage(StrEnum):
    """Stages whose times are learned."""

    NODE = "waiting_for_node"  # until a replica announces itself, with the decision to start it
    STARTING = "starting"  # of a replica, until it is ready
    DOWNLOADING = "downloading"
    LOADING = "loading"
    COMPILING = "compiling"
    WARMING_UP = "warming_up"


_BYTES = frozenset({ColdStage.DOWNLOADING, ColdStage.LOADING})
_OF_A_LOAD = (
    ColdStage.DOWNLOADING,
    ColdStage.LOADING,
    ColdStage.COMPILING,
    ColdStage.WARMING_UP,
)

ASSUMED_S = {
    ColdStage.NODE: 5.0,
    ColdStage.STARTING: 15.0,
    ColdStage.DOWNLOADING: 10.0,
    ColdStage.LOADING: 2.0,
    ColdStage.COMPILING: 60.0,
    ColdStage.WARMING_UP: 5.0,
}
"""Seconds of a stage that has never ended, and for stages of bytes of a gigabyte: 100 MB/s from the
network, 0.5 GB/s from a disk (measured, see the page on performance). Compiling and warming up are
assumed only once they have begun: most recipes have neither."""


def stage_key(stage: ColdStage, pool: str = "") -> tuple[str, str]:
    """Key of a stage among the costs, for a pool or for all of them. No pool has such a name, so
    the version before, which knows only ``STARTING``, does not read it."""
    if stage is ColdStage.STARTING and pool:
        return START_KEY, pool
    return START_KEY, f"{pool}/{stage}"


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """A stage that is under way."""

    share: float  # finished, from 0 to 1
    left_s: float  # to the end of the cold start, as far as it is known


@dataclass(slots=True)
class _Load:
    """Load of weights by a replica, as it was seen last."""

    pool: str
    stage: ColdStage
    began: float  # when the stage was first seen
    first: int = 0  # bytes that were done then
    done: int = 0
    total: int = 0  # bytes; 0: not known
    measured: float = 0.0  # when ``done`` was seen


class ColdStarts:
    """Times of the stages of cold starts, learned and expected. Owned by one event loop."""

    def __init__(self, clock: Clock, costs: CostModel, metrics: QueueMeter) -> None:
        self._clock = clock
        self._costs = costs
        self._metrics = metrics
        self._loads: dict[tuple[str, str], _Load] = {}  # by replica and endpoint
        # pools in which requests wait for a replica: since when, and when that was seen last
        self._without: dict[str, tuple[float, float]] = {}

    # What is learned

    def took(self, stage: ColdStage, pool: str, seconds: float) -> None:
        """Learn that a stage, which is not one of bytes, took ``seconds``."""
        self._metrics.cold_start(pool, stage, seconds)
        self._observe(stage, pool, seconds)

    def _observe(self, stage: ColdStage, pool: str, seconds: float, size: float = 1.0) -> None:
        """``size``: gigabytes, of a stage of bytes."""
        for key in {stage_key(stage, pool), stage_key(stage)}:
            self._costs.observe(*key, size, seconds)

    def expected_s(self, stage: ColdStage, pool: str, size: float = 1.0) -> float:
        """Seconds that a stage is expected to take; never 0 but for no bytes."""
        for key in (stage_key(stage, pool), stage_key(stage)):
            if self._costs.knows(*key):
                return self._costs.expected_s(*key, size)
        return ASSUMED_S[stage] * size

    # Waiting for a replica

    def waits(self, pool: str) -> StageEstimate:
        """Estimate for a pool in which requests wait and that has no replica."""
        now = self._clock.monotonic()
        began, seen = self._without.get(pool, (now, now))
        if now - seen > SEEN_WITHIN_S:
            began = now  # another wait
        self._without[pool] = began, now
        node = self._estimate_stage(ColdStage.NODE, pool, began)
        return StageEstimate(node.share, node.left_s + self.expected_s(ColdStage.STARTING, pool))

    def note_announcement(self, pool: str) -> None:
        """Note that a replica of the pool announced its start for the first time."""
        began, seen = self._without.pop(pool, (0.0, float("-inf")))
        now = self._clock.monotonic()
        if now - seen <= SEEN_WITHIN_S:
            self.took(ColdStage.NODE, pool, now - began)

    def starting(self, pool: str, began: float) -> StageEstimate:
        """Estimate for a replica that announced its start at ``began``, by the monotonic clock."""
        return self._estimate_stage(ColdStage.STARTING, pool, began)

    # Loads

    def note_loads(self, present: Sequence[Presence]) -> None:
        """Note what all replicas are loading."""
        before, self._loads = self._loads, {}
        there = {replica.replica_id for replica in present}
        kept: set[int] = set()
        for presence in present:
            for loading in from_plain(presence.loading):
                known = before.get((presence.replica_id, loading.endpoints[0]))
                load = self._track_load(known, presence.pool, loading)
                if load is not None:
                    kept.add(id(load))
                    self._loads |= {(presence.replica_id, name): load for name in loading.endpoints}
        ended = {id(load): load for (id_, _), load in before.items() if id_ in there}
        for number, load in ended.items():
            if number not in kept:
                self._learn(load)

    def loads(self, replica_id: str, endpoint: str) -> StageEstimate | None:
        """Estimate for a load that is under way. None if it is not known."""
        load = self._loads.get((replica_id, endpoint))
        if load is None or (load.stage in _BYTES and not load.total):
            return None
        if load.stage in _BYTES:
            now = StageEstimate(min(1.0, load.done / load.total), self._bytes_left_s(load))
        else:
            now = self._estimate_stage(load.stage, load.pool, load.began)
        later = _OF_A_LOAD[_OF_A_LOAD.index(load.stage) + 1 :]
        rest_s = sum(self._later_s(stage, load) for stage in later)
        return StageEstimate(now.share, now.left_s + rest_s)

    def _track_load(self, before: _Load | None, pool: str, loading: Loading) -> _Load | None:
        if loading.stage not in _STAGES or loading.warm:
            return None  # a copy from host memory takes as long as it takes
        stage, now = _STAGES[loading.stage], self._clock.monotonic()
        if before is None or before.stage is not stage:
            return _Load(pool, stage, now, loading.done, loading.done, loading.total, now)
        if loading.done != before.done:
            before.done, before.measured = loading.done, now
        before.total = loading.total or before.total
        return before

    def _learn(self, load: _Load) -> None:
        """Learn from a stage that ended, or was given up: bytes count as far as they were seen."""
        took_s = self._clock.monotonic() - load.began
        if load.stage not in _BYTES:
            self.took(load.stage, load.pool, took_s)
            return
        self._metrics.cold_start(load.pool, load.stage, took_s)
        if (rate := _rate(load)) is not None:
            size = (load.done - load.first) / GIGABYTE
            self._observe(load.stage, load.pool, size * GIGABYTE / rate, size)

    def _bytes_left_s(self, load: _Load) -> float:
        left = max(0, load.total - load.done)
        if (rate := _rate(load)) is not None:
            return left / rate
        return self.expected_s(load.stage, load.pool, left / GIGABYTE)

    def _later_s(self, stage: ColdStage, load: _Load) -> float:
        if stage in _BYTES:
            return self.expected_s(stage, load.pool, load.total / GIGABYTE)
        known = self._costs.knows(*stage_key(stage, load.pool))
        return self.expected_s(stage, load.pool) if known else 0.0

    def _estimate_stage(self, stage: ColdStage, pool: str, began: float) -> StageEstimate:
        elapsed_s = self._clock.monotonic() - began
        expected_s = self.expected_s(stage, pool)
        left_s = max(expected_s - elapsed_s, OVERRUN_FRACTION * elapsed_s)
        return StageEstimate(min(MAX_SHARE, elapsed_s / expected_s), left_s)


_STAGES = {
    Stage.DOWNLOADING: ColdStage.DOWNLOADING,
    Stage.LOADING: ColdStage.LOADING,
    Stage.COMPILING: ColdStage.COMPILING,
    Stage.WARMING_UP: ColdStage.WARMING_UP,
}


def _rate(load: _Load) -> float | None:
    """Bytes a second of a load. None before it can be measured."""
    took_s = load.measured - load.began
    moved = load.done - load.first
    return moved / took_s if took_s >= MIN_MEASURED_S and moved > 0 else None
