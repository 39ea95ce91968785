"""Periodic tasks sleep longer while nobody calls, and are back at once when somebody does."""

from __future__ import annotations

import asyncio
import time

from serve_app.domain.rest import ANNOUNCE_EVERY_S, QUIET_S, Rest
from tests.contract.waiting import eventually
from tests.fakes.clock import FakeClock

FOR_EVER_S = 600.0


def resting(clock: FakeClock) -> Rest:
    rest = Rest(clock.monotonic)
    rest.hears = lambda: True
    clock.advance(QUIET_S + 1)
    return rest


async def test_at_rest_a_task_sleeps_until_a_call() -> None:
    rest = resting(FakeClock())
    sleeping = asyncio.create_task(rest.sleep(0.01, FOR_EVER_S))
    await asyncio.sleep(0.1)
    assert not sleeping.done()
    rest.note_call()
    await asyncio.wait_for(sleeping, 60.0)


async def test_at_rest_a_task_that_is_needed_sooner_does_not_wait() -> None:
    rest, needed = resting(FakeClock()), asyncio.Event()
    sleeping = asyncio.create_task(rest.sleep(0.01, FOR_EVER_S, needed))
    await asyncio.sleep(0.1)
    needed.set()
    await asyncio.wait_for(sleeping, 60.0)
    assert rest.is_on


async def test_a_task_keeps_its_period_for_a_while_after_a_call() -> None:
    clock = FakeClock()
    rest = resting(clock)
    rest.note_call()
    clock.advance(QUIET_S - 1)
    began = time.monotonic()
    await rest.sleep(0.01, FOR_EVER_S)
    assert time.monotonic() - began < 60.0


async def test_a_task_with_a_long_period_keeps_it() -> None:
    rest = resting(FakeClock())
    await asyncio.wait_for(rest.sleep(0.05, 0.01), 60.0)


def test_a_process_that_does_not_hear_the_others_does_not_rest() -> None:
    rest = resting(FakeClock())
    assert rest.is_on
    rest.hears = lambda: False
    assert not rest.is_on


def test_calls_keep_the_other_processes_from_rest_without_a_message_for_each() -> None:
    clock, messages = FakeClock(), 0

    def announce() -> None:
        nonlocal messages
        messages += 1

    rest = resting(clock)
    rest.announce = announce
    for _ in range(100):
        rest.note_call()
    assert messages == 1
    clock.advance(ANNOUNCE_EVERY_S + 1)
    rest.note_call()
    assert messages == 2


async def test_a_task_that_is_cancelled_is_woken_no_more() -> None:
    rest = resting(FakeClock())
    sleeping = asyncio.create_task(rest.sleep(0.01, FOR_EVER_S))
    await eventually(lambda: asyncio.sleep(0, bool(rest._sleepers)), 60.0)
    sleeping.cancel()
    await asyncio.gather(sleeping, return_exceptions=True)
    assert not rest._sleepers
