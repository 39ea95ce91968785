"""What a delivery costs the database beside a backlog of a receiver that is down.

    python benchmarks/webhook_backlog.py

On a PostgreSQL of its own. For each size of the backlog: looking for what is due, claiming one,
storing its body, and writing down that it was delivered; medians in milliseconds.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from serve_app.domain.webhook import ClaimedDelivery, DeliveryChannel, ReceiverResponse
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.postgres.database import Database
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox

TENANT = "ann"
DOWN, GOOD = DeliveryChannel(TENANT, "down.example"), DeliveryChannel(TENANT, "good.example")
BACKLOGS = (0, 1_000, 100_000)
DELIVERIES = 200
AT_ONCE = 20_000
FILL = """
WITH made AS (
    INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, input, state,
                          outcome, webhook_url, finished_at)
    SELECT gen_random_uuid(), %(tenant)s, 'e', 'd', 'p', 1, '{}', 'succeeded', '{}', %(url)s, now()
    FROM generate_series(1, %(count)s::integer)
    RETURNING id, tenant, webhook_url
)
INSERT INTO webhook_deliveries (request_id, tenant, url) SELECT id, tenant, webhook_url FROM made
"""


async def fill(database: Database, channel: DeliveryChannel, count: int) -> None:
    url = f"https://{channel.host}/hook"
    for done in range(0, count, AT_ONCE):
        part = {"tenant": channel.tenant, "url": url, "count": min(AT_ONCE, count - done)}
        await database.rows(FILL, part)


async def record_time(took_ms: list[float], act: Callable[[], Awaitable[object]]) -> None:
    began = time.perf_counter()
    await act()
    took_ms.append((time.perf_counter() - began) * 1000)


async def deliver(outbox: PostgresOutbox, took: dict[str, list[float]]) -> None:
    claimed: list[ClaimedDelivery] = []

    async def claim() -> None:
        claimed.extend(await outbox.claim({GOOD: 1}))

    await record_time(took["look"], lambda: outbox.channels(None, 200))
    await record_time(took["claim"], claim)
    (delivery,) = claimed
    await record_time(took["body"], lambda: outbox.keep_body(delivery, b'{"status":"OK"}'))
    await record_time(
        took["delivered"], lambda: outbox.record_success(delivery, ReceiverResponse(0.1, 200))
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder), grace_s=0.2)
        conninfo = await postgres.start()
        await migrate(conninfo)
        database = Database(conninfo)
        await database.start()
        outbox = PostgresOutbox(database)
        for backlog in BACKLOGS:
            await fill(database, DOWN, backlog)
            await fill(database, GOOD, DELIVERIES)
            took: dict[str, list[float]] = {
                name: [] for name in ("look", "claim", "body", "delivered")
            }
            for _ in range(DELIVERIES):
                await deliver(outbox, took)
            summary = ", ".join(f"{name} {statistics.median(ms):.2f}" for name, ms in took.items())
            print(f"{backlog} wait for the one that is down: {summary}", flush=True)
            await database.rows("DELETE FROM webhook_deliveries")
            await database.rows("DELETE FROM requests")
        await database.aclose()
        await postgres.aclose()


if __name__ == "__main__":
    asyncio.run(main())
