"""Lanes, limits and the cost model of the fake queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from serve_app.domain.request import NewRequest, Request
from serve_app.domain.workflows.definition import POOL
from serve_app.queue.fairness.cost_model import Fit, expected_s
from serve_app.queue.state.eta import UNKNOWN_S, FreeTimes, remaining_s
from serve_app.queue.store.config import QueueLimits
from tests.fakes.lane_order import LaneClock, VirtualStart, charge, in_order, pool_time
from tests.fakes.queue_row import Row


class FairLanes:
    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._lanes: dict[str, dict[str, LaneClock]] = {}  # pool → tenant
        self._fits: dict[tuple[str, str], Fit] = {}

    def add(self, new: NewRequest) -> float:
        """What it is expected to take, in seconds."""
        pools = (new.pool, new.fallback.pool) if new.fallback else (new.pool,)
        for pool in pools:
            self.open(pool, new.tenant)
        return expected_s(self._fits, new.endpoint, new.pool, new.work)

    def open(self, pool: str, tenant: str) -> None:
        lanes = self._lanes.setdefault(pool, {})
        lanes.setdefault(tenant, LaneClock(self._limits.weight(tenant)))

    def order(
        self,
        pool: str,
        rows: Iterable[Row],
        hot: Sequence[str] = (),
        now: datetime | None = None,
        host: Sequence[str] = (),
    ) -> list[VirtualStart]:
        lanes, queued = self._lanes.get(pool, {}), [row.to_queued_request() for row in rows]
        busy = {request.tenant for request in queued}
        for tenant, lane in lanes.items():
            if tenant not in busy or self._limits.limits_running:
                lane.rested = True
        return in_order(lanes, queued, hot, now, host)

    def charge_lease(self, pool: str, start: VirtualStart) -> None:
        lanes = self._lanes[pool]
        charge(lanes[start.queued.tenant], start, pool_time(lanes.values()))

    def settle(self, row: Row, took_s: float, *, succeeded: bool) -> None:
        """Its lane pays what it took."""
        request = row.request
        lane = self._lanes[request.pool][request.tenant]
        lane.vtime += (took_s - row.expected_s) / lane.weight
        resumed = request.attempt > 1 and request.snapshot is not None
        if succeeded and request.work > 0 and not resumed:
            key = (request.endpoint, request.pool)
            self._fits[key] = self._fits.get(key, Fit()).learn(request.work, took_s)

    def pays(self, request: Request, seconds: float) -> None:
        """Its lane, for a frame of a session."""
        lane = self._lanes[request.pool][request.tenant]
        lane.vtime += seconds / lane.weight

    def until_start_s(
        self,
        request: Request,
        rows: Sequence[Row],
        running: Sequence[Request],
        free_in_s: Sequence[float],
    ) -> float | None:
        if not any(pool == request.pool for _, pool in self._fits):
            return None
        order = [start.queued.id for start in self.order(request.pool, rows)]
        ahead = order[: order.index(request.id)] if request.id in order else []
        most = self._limits.running_of_tenant(request.tenant)
        by_id = {row.request.id: row.request for row in rows}
        before = [by_id[id_] for id_ in ahead]
        if most is not None and self.limit(request, running):
            before = [earlier for earlier in before if earlier.tenant == request.tenant]
            free_in_s = sorted(free_in_s)[-most:]
        ahead_s = sum(
            expected_s(self._fits, earlier.endpoint, earlier.pool, earlier.work)
            for earlier in before
        )
        return FreeTimes(free_in_s).until_start_s(len(before), ahead_s)

    def takes_s(self, request: Request, elapsed_s: float = 0.0) -> float | None:
        """Expected seconds, for one that has run for ``elapsed_s``."""
        fit = self._fits.get((request.endpoint, request.pool))
        return (
            None
            if fit is None
            else remaining_s(fit.expect(request.work), elapsed_s, request.progress)
        )

    def typical_s(self, request: Request) -> float:
        """Mean seconds of its endpoint's requests; a minute while none has ended."""
        usual_s = self.usual_s(request.endpoint, request.pool)
        return UNKNOWN_S if usual_s is None else usual_s

    def usual_s(self, endpoint: str, pool: str) -> float | None:
        """Mean seconds of an endpoint's requests; None while none has ended."""
        fit = self._fits.get((endpoint, pool))
        return None if fit is None else fit.mean_s

    def limit(self, request: Request, running: Sequence[Request]) -> str:
        """The limit on what runs that holds it back, in words; empty: none."""
        if request.tenant in self._limits.disabled:
            return f"The tenant {request.tenant} is disabled."
        most = self._limits.running_of_tenant(request.tenant)
        own = sum(runner.tenant == request.tenant and runner.pool != POOL for runner in running)
        if most is not None and own >= most:
            return f"At most {most} of your requests may run at once."
        most = self._limits.running_of_endpoint(request.endpoint)
        if (
            most is not None
            and sum(runner.endpoint == request.endpoint for runner in running) >= most
        ):
            return f"At most {most} requests for {request.endpoint} may run at once."
        return ""
