"""Key ring over PostgreSQL: its cache, and its error without a database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from serve_app.domain.errors import DatabaseUnavailable, Unauthenticated
from serve_app.queue.store.database import CONNECT
from serve_app.tenants.api_keys import CACHE_S, KeyRing
from tests.fakes.clock import FakeClock


@pytest.fixture
async def pool(conninfo: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    async with AsyncConnectionPool[Any](
        conninfo, kwargs=dict(CONNECT), min_size=1, open=False
    ) as pool:
        yield pool


async def test_a_key_revoked_elsewhere_is_shut_out_within_seconds(
    pool: AsyncConnectionPool[Any],
) -> None:
    clock = FakeClock()
    here, elsewhere = KeyRing(pool, clock), KeyRing(pool, clock)
    made = await here.create("studio")
    await here.authenticate(f"Key {made}")
    await elsewhere.revoke(made.id)
    clock.advance(CACHE_S + 0.1)
    with pytest.raises(Unauthenticated):
        await here.authenticate(f"Key {made}")


async def test_a_disabled_tenants_keys_are_shut_out(pool: AsyncConnectionPool[Any]) -> None:
    keys = KeyRing(pool, FakeClock())
    made = await keys.create("studio")
    async with pool.connection() as connection:
        await connection.execute("UPDATE tenants SET disabled_at = now()")
    with pytest.raises(Unauthenticated):
        await keys.authenticate(f"Key {made}")


async def test_a_key_that_was_seen_lately_needs_no_database(
    pool: AsyncConnectionPool[Any],
) -> None:
    clock = FakeClock()
    keys = KeyRing(pool, clock)
    made = await keys.create("studio")
    await keys.authenticate(f"Key {made}")
    await pool.close()
    assert (await keys.authenticate(f"Key {made}")).tenant == "studio"
    clock.advance(CACHE_S + 0.1)
    with pytest.raises(DatabaseUnavailable):
        await keys.authenticate(f"Key {made}")


async def test_invented_ids_neither_fill_the_memory_nor_push_good_keys_out(
    pool: AsyncConnectionPool[Any],
) -> None:
    keys = KeyRing(pool, FakeClock(), size=10)
    made = await keys.create("studio")
    await keys.authenticate(f"Key {made}")
    for number in range(30):
        with pytest.raises(Unauthenticated):
            await keys.authenticate(f"Key invented{number}:{'0' * 64}")
    await pool.close()
    assert (await keys.authenticate(f"Key {made}")).tenant == "studio"


async def test_no_secret_is_stored(pool: AsyncConnectionPool[Any]) -> None:
    made = await KeyRing(pool, FakeClock()).create("studio")
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT api_keys::text FROM api_keys")
        rows = await cursor.fetchall()
    assert made.id in str(rows)
    assert made.secret not in str(rows)
