"""How often snapshots are taken, by a clock that moves when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest

from deployments.backoff import Backoff
from deployments.keeping import Keeper
from deployments.replica_config import ReplicaConfig
from deployments.upload import Uploader
from serve_app.domain.lease import Held
from tests.deployments.storage import HttpStorage
from tests.fakes.clock import FakeClock

STEPS_A_SECOND = 4
HELD = Held("long", 1)


@dataclass
class Taken:
    step: int

    def to_bytes(self) -> bytes:
        return b"numbers"


class Steady:
    """A generation that makes so many steps a second, and its attempt."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.in_engine_since = clock.monotonic()
        self.generation = self
        self.lease = self
        self.attempt = HELD.attempt
        self.held = HELD
        self.finished = None  # it is all of the request
        self.at_decoding: Future[Taken] | None = None

    @property
    def steps_done(self) -> int:
        return int((self._clock.monotonic() - self.in_engine_since) * STEPS_A_SECOND)

    def ask_for_snapshot(self) -> Future[Taken]:
        asked: Future[Taken] = Future()
        asked.set_result(Taken(self.steps_done))
        return asked


@dataclass
class Room:
    """What of a workshop a keeper uses."""

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
    config = ReplicaConfig(snapshot_interval_s=interval_s)
    steady, known, taken = Steady(room.clock), 0, 0
    keeper = Keeper(cast("Any", {HELD: steady}), lambda: cast("Any", room), config)
    tickets = HttpStorage()
    for number in range(int(5 * interval_s / config.report_interval_s)):
        room.clock.advance(config.report_interval_s)
        # Were it to die now, before this report: what is known is what the reports before told.
        assert steady.steps_done - known <= interval_s * STEPS_A_SECOND
        told = keeper.untold()
        keeper.told(told)
        known = max([known, *(snapshot.step for _, snapshot in told)])
        keeper.take([(held, tickets.ticket(f"s/{number}")) for held in keeper.wants()])
        await keeper.taken(asyncio.get_running_loop().time() + 30)
        taken += len(told)
    assert 4 <= taken <= 10  # and not at every report


async def test_of_one_that_is_decoded_what_it_was_before_is_kept_once(room: Room) -> None:
    config = ReplicaConfig(snapshot_interval_s=2.0)
    steady = Steady(room.clock)
    keeper = Keeper(cast("Any", {HELD: steady}), lambda: cast("Any", room), config)
    tickets, told = HttpStorage(), []
    room.clock.advance(1.0)
    steady.at_decoding = steady.ask_for_snapshot()
    steady.ask_for_snapshot = Future  # type: ignore[method-assign]  # never, while it is decoded
    for number in range(40):
        room.clock.advance(config.report_interval_s)
        told += keeper.untold()
        keeper.told(told)
        keeper.take([(held, tickets.ticket(f"s/{number}")) for held in keeper.wants()])
        await keeper.taken(asyncio.get_running_loop().time() + 30)
    assert [snapshot.step for _, snapshot in told] == [STEPS_A_SECOND]
    assert keeper.wants_now() == ()
