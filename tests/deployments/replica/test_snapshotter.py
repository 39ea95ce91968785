"""Frequency of snapshots, with a clock that the test controls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest

from deployments.replica.config import SnapshotConfig
from deployments.replica.snapshotter import Snapshotter
from deployments.transfer.uploader import Backoff, Uploader
from serve_app.domain.lease import LeaseKey
from tests.deployments.storage import HttpStorage
from tests.fakes.clock import FakeClock

STEPS_A_SECOND = 4
REPORT_INTERVAL_S = 0.5
HELD = LeaseKey("long", 1)


@dataclass
class Taken:
    step: int

    def to_bytes(self) -> bytes:
        return b"numbers"


class Steady:
    """A generation with a constant step rate, its attempt, and the attempt's state."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.in_engine_since = clock.monotonic()
        self.generation = self
        self.state = self
        self.finished_outputs = None  # the request has only this part
        self.decoding_snapshot: Future[Taken] | None = None

    @property
    def steps_done(self) -> int:
        return int((self._clock.monotonic() - self.in_engine_since) * STEPS_A_SECOND)

    def request_snapshot(self) -> Future[Taken]:
        future: Future[Taken] = Future()
        future.set_result(Taken(self.steps_done))
        return future


@dataclass
class Room:
    """The resources that a snapshotter uses."""

    clock: FakeClock
    uploader: Uploader
    encoders: ThreadPoolExecutor


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    clock = FakeClock()
    backoff = Backoff(Random(1))  # noqa: S311
    uploader = Uploader(HttpStorage().client(), clock, backoff, 5.0)
    with ThreadPoolExecutor(1) as encoders:
        yield Room(clock, uploader, encoders)
    await uploader.aclose()


@pytest.mark.parametrize("interval_s", [2.0, 10.0, 60.0])
async def test_a_death_at_any_time_loses_at_most_one_interval_of_work(
    room: Room, interval_s: float
) -> None:
    config = SnapshotConfig(interval_s=interval_s)
    steady, known, taken = Steady(room.clock), 0, 0
    snapshotter = Snapshotter(
        cast("Any", {HELD: steady}), lambda: cast("Any", room), config, REPORT_INTERVAL_S
    )
    tickets = HttpStorage()
    for number in range(int(5 * interval_s / REPORT_INTERVAL_S)):
        room.clock.advance(REPORT_INTERVAL_S)
        # If the replica died now, only the previous reports would be known.
        assert steady.steps_done - known <= interval_s * STEPS_A_SECOND
        reported = snapshotter.list_unreported()
        snapshotter.mark_reported(reported)
        known = max([known, *(snapshot.step for _, snapshot in reported)])
        snapshotter.use_tickets(
            [(key, tickets.ticket(f"s/{number}")) for key in snapshotter.wants_tickets()]
        )
        await snapshotter.wait_uploaded(asyncio.get_running_loop().time() + 30)
        taken += len(reported)
    assert 4 <= taken <= 10  # and not at every report


async def test_of_one_that_is_decoded_what_it_was_before_is_kept_once(room: Room) -> None:
    config = SnapshotConfig(interval_s=2.0)
    steady = Steady(room.clock)
    snapshotter = Snapshotter(
        cast("Any", {HELD: steady}), lambda: cast("Any", room), config, REPORT_INTERVAL_S
    )
    tickets, reported = HttpStorage(), []
    room.clock.advance(1.0)
    steady.decoding_snapshot = steady.request_snapshot()
    steady.request_snapshot = Future  # type: ignore[method-assign]  # never ends, as in decoding
    for number in range(40):
        room.clock.advance(REPORT_INTERVAL_S)
        reported += snapshotter.list_unreported()
        snapshotter.mark_reported(reported)
        snapshotter.use_tickets(
            [(key, tickets.ticket(f"s/{number}")) for key in snapshotter.wants_tickets()]
        )
        await snapshotter.wait_uploaded(asyncio.get_running_loop().time() + 30)
    assert [snapshot.step for _, snapshot in reported] == [STEPS_A_SECOND]
    assert snapshotter.wants_tickets_at_shutdown() == ()
