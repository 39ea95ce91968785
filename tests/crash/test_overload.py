"""More work than can be done."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace

import psutil

from serve_app.queue.limits import QueueLimits
from tests.crash.scene import LIMITS, Clients, Scene
from tests.queue.requests import POOL

SLOTS, STEPS, STEP_S = 4, 3, 0.1
CAPACITY = SLOTS / (STEPS * STEP_S)  # requests per second, if nothing but steps took time
CAP = 40
LEAST_GOODPUT = 0.6
"""Of what the same replicas do with enough to do. Clients, ingress and replicas share one process
and a busy machine here."""
MOST_GROWTH = 24 * 2**20


async def test_at_ten_times_the_load_the_rest_is_refused_and_the_pace_is_kept(
    scene: Scene,
) -> None:
    limits: QueueLimits = replace(LIMITS, lease_s=10.0, max_waiting=CAP)
    (queue,) = await scene.ingresses(scene.near, limits=limits)
    async with scene.replicas(1, slots=SLOTS, steps=STEPS, step_s=STEP_S):
        async with Clients(scene, 4, pause_s=0.9 * SLOTS / CAPACITY):
            usual = await pace(scene)
        gc.collect()
        before = psutil.Process().memory_info().rss
        async with Clients(scene, 40, pause_s=40 / (10 * CAPACITY)) as crowd:
            under_load = await pace(scene)
            demand = (await queue.demand())[POOL]
        assert crowd.refused > len(scene.house.history.accepted)
        assert demand.queued <= 2 * CAP  # counted once a second
        assert psutil.Process().memory_info().rss - before < MOST_GROWTH
        assert under_load >= LEAST_GOODPUT * usual
        await scene.checked()


async def pace(scene: Scene, for_s: float = 3.0) -> float:
    """Requests per second that end well."""
    finished, began = scene.house.history.finished, time.monotonic()
    count = len(finished)
    await asyncio.sleep(for_s)
    return (len(finished) - count) / (time.monotonic() - began)
