"""More work than can be done. How much of the pace is kept is measured by
``benchmarks/goodput.py``."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

import psutil

from serve_app.queue.store.config import QueueLimits
from tests.crash.scene import LIMITS, Clients, Scene
from tests.queue.requests import POOL

SLOTS, STEPS, STEP_S = 4, 3, 0.1
CAP = 40
CLIENTS = 40
PAUSE_S = STEPS * STEP_S * CLIENTS / SLOTS / 10
"""Between the submits of a client: together ten times what the slots can do."""
MAX_GROWTH = 24 * 2**20


async def test_at_ten_times_the_load_the_rest_is_refused_and_requests_go_on_ending(
    scene: Scene,
) -> None:
    limits: QueueLimits = replace(LIMITS, lease_s=10.0, max_waiting=CAP)
    (queue,) = await scene.ingresses(scene.near, limits=limits)
    async with scene.replicas(1, slots=SLOTS, steps=STEPS, step_s=STEP_S):
        async with Clients(scene, 2) as few:
            await until(scene, few, ended=2 * SLOTS)
        gc.collect()
        before = psutil.Process().memory_info().rss
        async with Clients(scene, CLIENTS, pause_s=PAUSE_S) as crowd:
            # As many as wait at most: those that end were accepted into a queue that was full.
            await until(scene, crowd, ended=2 * CAP, refused=2 * CAP)
            assert (await queue.demand())[POOL].queued <= 2 * CAP  # counted once a second
        assert psutil.Process().memory_info().rss - before < MAX_GROWTH
        await scene.check()


async def until(scene: Scene, clients: Clients, *, ended: int, refused: int = 0) -> None:
    """Wait until that many more have ended well, and that many of these clients' were refused."""
    finished = scene.house.history.finished
    enough = len(finished) + ended
    async with asyncio.timeout(60):
        while len(finished) < enough or clients.refused < refused:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
