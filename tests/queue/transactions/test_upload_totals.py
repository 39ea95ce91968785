"""Bytes of a tenant's uploads are a sum that triggers keep, whatever statement changes a file."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from serve_app.domain.upload import Upload
from serve_app.postgres.database import Database
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.settings import TenantLimits

DIFFERENT = """
SELECT coalesce(t.tenant, u.tenant), t.bytes, u.bytes FROM upload_totals t FULL JOIN (
    SELECT tenant, sum(size)::bigint AS bytes FROM uploads WHERE state = 'whole' GROUP BY tenant
) u ON u.tenant = t.tenant
WHERE coalesce(t.bytes, 0) <> coalesce(u.bytes, 0)
"""
LONG_PAST = "UPDATE uploads SET due_at = now() - interval '1 day' WHERE due_at IS NOT NULL"
HASTY = Retention(tenants={"t1": TenantLimits(retention_days=1), "t2": TenantLimits()})


def make_upload(number: int, tenant: str) -> Upload:
    return Upload(f"u/{number}/a.png", "id", tenant, "image/png")


async def test_the_sums_are_right_after_any_order_of_statements(
    database: Database, chance: random.Random
) -> None:
    book = PostgresUploads(database, HASTY)
    tenants = "t1", "t2", "t3"
    for number in range(60):
        await book.open(make_upload(number, chance.choice(tenants)))

    def any_key() -> str:
        return f"u/{chance.randrange(60)}/a.png"

    async def age() -> None:
        await database.rows("UPDATE uploads SET created_at = now() - interval '2 days'")
        await book.mark_aged()

    async def take() -> None:
        await database.rows(LONG_PAST)
        await book.forget([upload.key for upload in await book.take_unwanted(5)])

    steps: list[Callable[[], Awaitable[object]]] = [
        *[lambda: book.finish(any_key(), chance.randrange(1000))] * 8,  # a second one has its size
        *[lambda: book.delete(chance.choice(tenants), any_key())] * 3,
        lambda: book.abandon(any_key()),
        lambda: database.rows("DELETE FROM uploads WHERE key = %(key)s", {"key": any_key()}),
        age,
        take,
    ]
    for _ in range(150):
        await chance.choice(steps)()
        assert await database.rows(DIFFERENT) == []


async def test_many_at_once_wait_for_each_other_and_lose_nothing(
    database: Database, chance: random.Random
) -> None:
    book = PostgresUploads(database, Retention())
    tenants = [f"t{number % 3}" for number in range(90)]
    for number, tenant in enumerate(tenants):
        await book.open(make_upload(number, tenant))
        await book.finish(make_upload(number, tenant).key, 10)

    async def sweep() -> None:
        for _ in range(5):
            await database.rows("UPDATE uploads SET due_at = now() WHERE key LIKE '%%7/a.png'")
            await book.forget([upload.key for upload in await book.take_unwanted(20)])

    async def change(number: int) -> None:
        upload = make_upload(number, tenants[number])
        await book.finish(upload.key, 25)
        if number % 2:
            await book.delete(upload.tenant, upload.key)

    order = chance.sample(range(90), 90)
    await asyncio.gather(sweep(), *(change(number) for number in order), sweep())
    assert await database.rows(DIFFERENT) == []
    used = [(await book.usage(tenant)).size for tenant in sorted(set(tenants))]
    ((left,),) = await database.rows("SELECT count(*) FROM uploads WHERE state = 'whole'")
    assert sum(used) == 25 * left > 0
