"""Key ring over PostgreSQL: its cache, and its error without a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.domain.errors import DatabaseUnavailable, TenantDisabled, Unauthenticated
from serve_app.postgres.database import Database
from serve_app.tenants.key_ring import CACHE_S, STALE_S, KeyRing
from tests.fakes.clock import FakeClock
from tests.queue.connections import LastingDatabase


@pytest.fixture
async def database(conninfo: str) -> AsyncIterator[Database]:
    own = LastingDatabase(conninfo, connections=2)
    await own.start()
    yield own
    await own.aclose()


async def test_a_key_revoked_elsewhere_is_shut_out_within_seconds(
    database: Database,
) -> None:
    clock = FakeClock()
    here, elsewhere = KeyRing(database, clock), KeyRing(database, clock)
    key = await here.create("studio")
    await here.authenticate(f"Key {key}")
    await elsewhere.revoke(key.id)
    clock.advance(CACHE_S + 0.1)
    with pytest.raises(Unauthenticated):
        await here.authenticate(f"Key {key}")


async def test_a_token_of_a_key_revoked_elsewhere_is_shut_out_within_seconds(
    database: Database,
) -> None:
    clock = FakeClock()
    here, elsewhere = KeyRing(database, clock), KeyRing(database, clock)
    key = await here.create("studio")
    assert (await here.identity_of(key.id)).tenant == "studio"
    await elsewhere.revoke(key.id)
    clock.advance(CACHE_S + 0.1)
    with pytest.raises(Unauthenticated, match="no longer valid"):
        await here.identity_of(key.id)


async def test_a_disabled_tenants_keys_are_refused_with_a_sentence(database: Database) -> None:
    keys = KeyRing(database, FakeClock())
    key = await keys.create("studio")
    await database.rows("UPDATE tenants SET disabled_at = now()")
    with pytest.raises(TenantDisabled, match="tenant studio is disabled"):
        await keys.authenticate(f"Key {key}")
    with pytest.raises(Unauthenticated):  # nothing is said to someone without the secret
        await keys.authenticate(f"Key {key.id}:{'0' * 64}")


async def test_uses_are_written_in_one_statement_whatever_their_number(database: Database) -> None:
    credentials = [await KeyRing(database, FakeClock()).create("studio") for _ in range(3)]
    counting = CountingDatabase(database.conninfo)
    await counting.start()
    keys = KeyRing(counting, FakeClock())
    for _ in range(10):
        for credential in credentials:
            await keys.authenticate(f"Key {credential}")
    before = counting.statements
    await keys.write_uses()
    await keys.write_uses()  # nothing was used since
    await counting.aclose()
    assert counting.statements == before + 1


async def test_uses_are_kept_while_the_database_is_away(database: Database) -> None:
    keys = KeyRing(database, FakeClock())
    key = await keys.create("studio")
    await keys.authenticate(f"Key {key}")
    await database.aclose()
    with pytest.raises(DatabaseUnavailable):
        await keys.write_uses()
    await database.start()
    await keys.write_uses()
    (info,) = await keys.list("studio")
    assert info.last_used_at is not None


async def test_a_rotated_key_is_refused_elsewhere_within_seconds(database: Database) -> None:
    clock = FakeClock()
    here, elsewhere = KeyRing(database, clock), KeyRing(database, clock)
    key = await here.create("studio")
    await here.authenticate(f"Key {key}")
    await elsewhere.rotate(key.id, overlap_s=0)
    clock.advance(CACHE_S + 0.1)
    with pytest.raises(Unauthenticated, match="expired"):
        await here.authenticate(f"Key {key}")


async def test_two_rotations_at_once_make_one_successor(database: Database) -> None:
    keys = KeyRing(database, FakeClock())
    key = await keys.create("studio")
    done = await asyncio.gather(*(keys.rotate(key.id, 60) for _ in range(2)))
    assert len([successor for successor in done if successor is not None]) == 1
    assert len(await keys.list("studio")) == 2


async def test_a_key_that_was_seen_lately_needs_no_database(
    database: Database,
) -> None:
    clock = FakeClock()
    keys = KeyRing(database, clock)
    key = await keys.create("studio")
    await keys.authenticate(f"Key {key}")
    await database.aclose()
    assert (await keys.authenticate(f"Key {key}")).tenant == "studio"
    clock.advance(CACHE_S + 0.1)
    assert (await keys.authenticate(f"Key {key}")).tenant == "studio"
    clock.advance(STALE_S)
    with pytest.raises(DatabaseUnavailable):
        await keys.authenticate(f"Key {key}")


async def test_many_calls_at_once_look_a_key_up_once(database: Database) -> None:
    key = await KeyRing(database, FakeClock()).create("studio")
    counting = CountingDatabase(database.conninfo)
    await counting.start()
    keys = KeyRing(counting, FakeClock())
    callers = await asyncio.gather(*(keys.authenticate(f"Key {key}") for _ in range(20)))
    await counting.aclose()
    assert {caller.tenant for caller in callers} == {"studio"}
    assert counting.statements == 1


class CountingDatabase(Database):
    statements = 0

    async def rows(self, sql: str, *params: Any, **named: Any) -> list[tuple[Any, ...]]:
        self.statements += 1
        return await super().rows(sql, *params, **named)


async def test_invented_ids_neither_fill_the_memory_nor_push_good_keys_out(
    database: Database,
) -> None:
    keys = KeyRing(database, FakeClock(), size=10)
    key = await keys.create("studio")
    await keys.authenticate(f"Key {key}")
    for number in range(30):
        with pytest.raises(Unauthenticated):
            await keys.authenticate(f"Key invented{number}:{'0' * 64}")
    await database.aclose()
    assert (await keys.authenticate(f"Key {key}")).tenant == "studio"


async def test_no_secret_is_stored(database: Database) -> None:
    key = await KeyRing(database, FakeClock()).create("studio")
    rows = await database.rows("SELECT api_keys::text FROM api_keys")
    assert key.id in str(rows)
    assert key.secret not in str(rows)
