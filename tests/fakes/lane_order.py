"""In which order what is queued is leased. Pure: ``leasing.py`` says the same in SQL.

Between tenants by virtual time: a lane is charged what its requests take, divided by its weight,
and the lane that was charged least goes next. Within a tenant by rank: the time of its submit,
later for low priority and earlier for high, so each priority waits a bounded time for the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from serve_app.domain.request import Priority

HEAD_START_S = 600.0
"""What a level of priority is worth: a low one is overtaken by the normal ones of its tenant that
come in the ten minutes after it, and by no later ones."""

LOOK_AHEAD = 32
"""So many requests from the front of a lane may change places for the sake of loaded weights."""

HOT_LEAD_S = 30
"""A request whose endpoint is hot goes before those that are older by no more than this."""

DUE_SOON_S = 5
"""One that expires so soon goes first in its lane."""


def ranked_at(created_at: datetime, priority: Priority) -> datetime:
    """When it counts as submitted."""
    return created_at + timedelta(seconds=head_start_s(priority))


def head_start_s(priority: Priority) -> float:
    """Added to the time of its submit."""
    return HEAD_START_S * (Priority.NORMAL - priority)


@dataclass(slots=True)
class Lane:
    """What a tenant has been given of a pool."""

    weight: float = 1.0
    vtime: float = 0.0  # seconds of a slot, by weight
    served: float = 0.0  # the start at which it was last given something
    rested: bool = True  # was idle, and was given nothing since

    def start(self, floor: float) -> float:
        """``floor``: the pool's time. Idleness saves nothing up; what was charged too much does."""
        return max(self.vtime, floor) if self.rested else self.vtime


@dataclass(frozen=True, slots=True)
class Queued:
    """A queued request, as far as its order goes."""

    id: str
    tenant: str
    endpoint: str
    ranked_at: datetime
    place: int
    expected_s: float
    start_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A request with the virtual time at which its turn comes, and its number in its lane."""

    queued: Queued
    at: float
    nth: int  # from 1


def pool_time(lanes: Iterable[Lane]) -> float:
    """No lane that rested is behind it."""
    return max((lane.served for lane in lanes), default=0.0)


def in_order(
    lanes: Mapping[str, Lane],
    queued: Iterable[Queued],
    hot: Collection[str] = (),
    now: datetime | None = None,
) -> list[Start]:
    """All that is queued in a pool, next first. ``lanes`` by tenant. With ``now``, also what
    expires soon, and what is hot where it is leased to, go first, as far as they may."""
    floor = pool_time(lanes.values())
    found: list[Start] = []
    for tenant, own in _by_tenant(queued).items():
        lane = lanes[tenant]
        at = lane.start(floor)
        for nth, each in enumerate(_in_lane(own, hot, now), start=1):
            found.append(Start(each, at, nth))
            at += each.expected_s / lane.weight
    return sorted(found, key=lambda start: (start.at, start.queued.place))


def charge(lane: Lane, start: Start, floor: float) -> None:
    """It was leased. ``floor``: the pool's time before."""
    lane.vtime = lane.start(floor) + start.queued.expected_s / lane.weight
    lane.rested = False
    lane.served = max(lane.served, start.at)


def _by_tenant(queued: Iterable[Queued]) -> dict[str, list[Queued]]:
    found: dict[str, list[Queued]] = {}
    for each in queued:
        found.setdefault(each.tenant, []).append(each)
    return found


def _in_lane(own: Sequence[Queued], hot: Collection[str], now: datetime | None) -> Iterable[Queued]:
    ranked = sorted(own, key=lambda each: (each.ranked_at, each.place))
    if now is None:
        return ranked
    soon = now + timedelta(seconds=DUE_SOON_S)

    def rank(each: Queued) -> tuple[bool, datetime, int]:
        due = each.start_by is not None and each.start_by < soon
        lead = timedelta(seconds=HOT_LEAD_S if each.endpoint in hot else 0)
        return not due, each.ranked_at - lead, each.place

    return [*sorted(ranked[:LOOK_AHEAD], key=rank), *ranked[LOOK_AHEAD:]]
