"""Periodic tasks go on after errors, and come sooner when they are needed."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.periodic_task import PeriodicTask
from serve_app.telemetry.queue_metrics import QueueMeter

FOR_EVER_S = 600.0


async def test_a_task_survives_any_error_and_warns_once_while_something_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, rounds, succeeded = CollectorRegistry(), itertools.count(), asyncio.Event()

    async def look() -> None:
        number = next(rounds)
        if number < 3:
            raise DatabaseUnavailable("PostgreSQL does not answer.")
        if number == 3:
            raise ValueError
        if number == 4:
            succeeded.set()

    task = PeriodicTask(0.01, {"look": look}, QueueMeter(registry))
    with caplog.at_level(logging.WARNING):
        task.start()
        await asyncio.wait_for(succeeded.wait(), 60.0)
        await task.aclose()
    assert [record.getMessage() for record in caplog.records] == [
        "The periodic task look is delayed: PostgreSQL does not answer.",
        "The periodic task look failed; it runs again in 0.01 s",
    ]
    assert registry.get_sample_value("darkroom_task_failures_total", {"task": "look"}) == 4


async def test_a_function_that_fails_keeps_no_other_from_running() -> None:
    ran = asyncio.Event()

    async def fail() -> None:
        raise ValueError

    async def work() -> None:
        ran.set()

    task = PeriodicTask(FOR_EVER_S, {"fail": fail, "work": work})
    task.start()
    await asyncio.wait_for(ran.wait(), 60.0)
    await task.aclose()


async def test_a_task_that_is_needed_sooner_does_not_wait() -> None:
    needed, rounds = asyncio.Event(), asyncio.Queue[None]()

    async def work() -> None:
        rounds.put_nowait(None)

    task = PeriodicTask(FOR_EVER_S, {"work": work}, sooner=needed)
    task.start()
    for _ in range(3):
        await asyncio.wait_for(rounds.get(), 60.0)
        needed.set()
    await task.aclose()
