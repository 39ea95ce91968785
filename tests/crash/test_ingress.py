"""An ingress process that is killed while it accepts."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.crash.scene import Scene

ACCEPT = """
import asyncio, sys
from serve_app.postgres.database import Database
from serve_app.queue.queue import assemble
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import UNCONFIRMED
from tests.queue.requests import ask, new

async def client(queue):
    while True:
        request = await queue.submit(new())
        print(request.id, flush=True)

async def accept(conninfo):
    database = Database(conninfo)
    await database.start()
    queue = assemble(database, SystemClock(), FakeTerms(), UNCONFIRMED, FakeLiveness(), "doomed")
    await queue.start()
    asking = asyncio.create_task(queue.ask(ask(2, replica="unheard-of")))
    await asyncio.gather(*(client(queue) for _ in range(8)))

asyncio.run(accept(sys.argv[1]))
"""
ROOT = Path(__file__).parents[2]


async def test_what_an_ingress_answered_before_it_was_killed_is_served_by_another(
    scene: Scene,
) -> None:
    await scene.ingresses(scene.near)
    doomed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ACCEPT, scene.conninfo),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
    )
    assert doomed.stdout is not None
    for _ in range(scene.chance.randrange(20, 120)):
        scene.house.history.accepted.add((await doomed.stdout.readline()).decode().strip())
    doomed.kill()
    rest = (await doomed.stdout.read()).decode().split("\n")
    scene.house.history.accepted.update(rest[:-1])  # the last may be cut off
    await doomed.wait()
    async with scene.replicas(2, slots=8, step_s=0.0):
        await scene.check()
