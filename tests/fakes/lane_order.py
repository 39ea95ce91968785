"""The order in which queued requests are leased, as pure functions: what the leasing statement says
in SQL. The fake queue leases by it, and properties of fairness are tested on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from serve_app.domain.request import Priority
from serve_app.queue.fairness.fair_queue import (
    DUE_SOON_S,
    HOST_LEAD_S,
    HOT_LEAD_S,
    LOOK_AHEAD,
    head_start_s,
)


def ranked_at(created_at: datetime, priority: Priority) -> datetime:
    """Time that ranks the request within its lane."""
    return created_at + timedelta(seconds=head_start_s(priority))


@dataclass(slots=True)
class LaneClock:
    """A tenant's share of a pool."""

    weight: float = 1.0
    vtime: float = 0.0  # seconds of a slot, divided by the weight
    served: float = 0.0  # the start of its last leased request
    rested: bool = True  # it was idle, and nothing was leased from it since

    def start(self, floor: float) -> float:
        """Virtual time of the lane's next turn. ``floor``: the pool's time. Idle time earns no
        credit; a refund of an excess charge does.
        """
        return max(self.vtime, floor) if self.rested else self.vtime


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A queued request, with the fields that its order depends on."""

    id: str
    tenant: str
    endpoint: str
    ranked_at: datetime
    place: int
    expected_s: float
    start_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class VirtualStart:
    """A request with the virtual time of its turn and its number in its lane."""

    queued: QueuedRequest
    at: float
    nth: int  # from 1


def pool_time(lanes: Iterable[LaneClock]) -> float:
    """Virtual time of the pool. No lane that rested is behind it."""
    return max((lane.served for lane in lanes), default=0.0)


def in_order(
    lanes: Mapping[str, LaneClock],
    queued: Iterable[QueuedRequest],
    hot: Collection[str] = (),
    now: datetime | None = None,
    host: Collection[str] = (),
) -> list[VirtualStart]:
    """All queued requests of a pool, next first. ``lanes`` is by tenant.

    With ``now``, requests that expire soon, and requests for ``hot`` and ``host`` endpoints, move
    forward within their bounds.
    """
    floor = pool_time(lanes.values())
    starts: list[VirtualStart] = []
    for tenant, own in _by_tenant(queued).items():
        lane = lanes[tenant]
        at = lane.start(floor)
        for nth, request in enumerate(_in_lane(own, hot, host, now), start=1):
            starts.append(VirtualStart(request, at, nth))
            at += request.expected_s / lane.weight
    return sorted(starts, key=lambda start: (start.at, start.queued.place))


def charge(lane: LaneClock, start: VirtualStart, floor: float) -> None:
    """Charge the lane for a leased request. ``floor``: the pool's time before."""
    lane.vtime = lane.start(floor) + start.queued.expected_s / lane.weight
    lane.rested = False
    lane.served = max(lane.served, start.at)


def _by_tenant(queued: Iterable[QueuedRequest]) -> dict[str, list[QueuedRequest]]:
    queues: dict[str, list[QueuedRequest]] = {}
    for request in queued:
        queues.setdefault(request.tenant, []).append(request)
    return queues


def _in_lane(
    own: Sequence[QueuedRequest],
    hot: Collection[str],
    host: Collection[str],
    now: datetime | None,
) -> Iterable[QueuedRequest]:
    ranked = sorted(own, key=lambda request: (request.ranked_at, request.place))
    if now is None:
        return ranked
    soon = now + timedelta(seconds=DUE_SOON_S)

    def rank(request: QueuedRequest) -> tuple[bool, datetime, int]:
        due = request.start_by is not None and request.start_by < soon
        lead_s = 0
        if request.endpoint in hot:
            lead_s = HOT_LEAD_S
        elif request.endpoint in host:
            lead_s = HOST_LEAD_S
        return not due, request.ranked_at - timedelta(seconds=lead_s), request.place

    return [*sorted(ranked[:LOOK_AHEAD], key=rank), *ranked[LOOK_AHEAD:]]
