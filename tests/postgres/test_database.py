"""A cancelled statement ends, whatever it waits for."""

from __future__ import annotations

import asyncio

from serve_app.postgres.database import Database

ENDS_S = 10.0


async def test_a_task_that_is_cancelled_as_its_connection_comes_free_ends(conninfo: str) -> None:
    database = Database(conninfo, connections=1)
    await database.start()
    kept: list[int] = []
    # The connection reaches its waiter within a few turns of the loop; the test tries each of them.
    for turns in range(24):
        busy = asyncio.create_task(database.rows("SELECT pg_sleep(0.01)"))
        await asyncio.sleep(0)
        waits = asyncio.create_task(_for_ever(database))
        await busy
        for _ in range(turns):
            await asyncio.sleep(0)
        waits.cancel()
        _, going = await asyncio.wait([waits], timeout=ENDS_S if not kept else 0.1)
        if going:
            kept.append(turns)
            waits.cancel()
    assert await database.rows("SELECT 1") == [(1,)]
    await database.aclose()
    assert kept == []


async def _for_ever(database: Database) -> None:
    while True:
        await database.rows("SELECT 1")
        await asyncio.sleep(3600)
