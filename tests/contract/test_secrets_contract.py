"""Contract of secrets by name: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Unavailable
from serve_app.domain.executors.secrets import INSTALLATION, Secret
from serve_app.domain.ports import Queue
from serve_app.resources.postgres_table import PostgresTable
from serve_app.resources.secrets import MAX_SECRETS, SECRETS, SecretBook, SecretStatus
from serve_app.resources.table import Table
from tests.fakes.queue import FakeQueue
from tests.fakes.tables import FakeTable
from tests.queue.connections import LastingDatabase

ME = Actor("key-1", "192.0.2.1")


@pytest.fixture
async def table(at: str | None, queue: Queue) -> AsyncIterator[Table[SecretStatus]]:
    if isinstance(queue, FakeQueue):
        yield FakeTable(SECRETS, queue.operations.note)
        return
    assert at is not None
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresTable(database, SECRETS)
    await database.aclose()


@pytest.fixture
def secret_book(table: Table[SecretStatus]) -> SecretBook:
    return SecretBook(table, b"s" * 32)


async def test_a_tenants_own_secret_comes_before_that_of_the_installation(
    secret_book: SecretBook, table: Table[SecretStatus]
) -> None:
    await secret_book.put(INSTALLATION, "FAL_KEY", "ours", ME)
    await secret_book.put("house", "FAL_KEY", "first", ME)
    await secret_book.put("house", "FAL_KEY", "theirs", ME)
    await secret_book.put("other", "OTHER_KEY", "hidden", ME)
    await secret_book.put("other", "FAL_KEY", "another's", ME)
    values = await secret_book.read("house", ["FAL_KEY", "OTHER_KEY", "NOT_SET"])
    assert values == [Secret("FAL_KEY", "house", "theirs"), Secret("FAL_KEY", "", "ours")]
    assert await secret_book.read("third", ["FAL_KEY"]) == [Secret("FAL_KEY", "", "ours")]
    assert "theirs" not in repr(values)
    assert [*await table.values("sealed", ["house"], ["FAL_KEY"])] == [("house", "FAL_KEY")]


async def test_secrets_are_listed_without_values_and_deleted(
    secret_book: SecretBook, table: Table[SecretStatus]
) -> None:
    await secret_book.put("house", "B_KEY", "value-b", ME)
    await secret_book.put("house", "A_KEY", "value-a", ME)
    await secret_book.put("other", "C_KEY", "value-c", ME)
    listed = await secret_book.list("house")
    assert [(secret.name, secret.changed_by) for secret in listed] == [
        ("A_KEY", "key-1"),
        ("B_KEY", "key-1"),
    ]
    assert "value" not in repr(listed)
    assert await table.delete("house", "A_KEY", ME)
    assert not await table.delete("house", "A_KEY", ME)
    assert not await table.delete("house", "C_KEY", ME)
    assert await secret_book.read("house", ["A_KEY", "C_KEY"]) == []


async def test_changes_are_in_the_audit_log_without_the_value(
    secret_book: SecretBook, table: Table[SecretStatus], queue: Queue
) -> None:
    await secret_book.put("house", "FAL_KEY", "value", ME)
    await table.delete("house", "FAL_KEY", ME)
    acts = await queue.operations.audit()
    assert [(act.action, act.subject, act.detail) for act in acts] == [
        ("secret.delete", "FAL_KEY", {"tenant": "house"}),
        ("secret.set", "FAL_KEY", {"tenant": "house"}),
    ]
    assert "value" not in repr(acts)


async def test_an_owner_has_a_limited_number_of_secrets(secret_book: SecretBook) -> None:
    assert await secret_book.put("other", "OTHER_KEY", "x", ME)
    for number in range(MAX_SECRETS - 1):
        assert await secret_book.put("house", f"KEY_{number}", "x", ME)
    both = await asyncio.gather(*(secret_book.put("house", f"LAST_{n}", "x", ME) for n in range(2)))
    assert sorted(value is None for value in both) == [False, True]
    assert await secret_book.put("house", "KEY_0", "changed", ME)
    assert await secret_book.put("other", "KEY_0", "x", ME)


async def test_values_of_another_installation_are_reported_by_name(
    secret_book: SecretBook, at: str | None
) -> None:
    await secret_book.put("house", "FAL_KEY", "value", ME)
    if at is None:
        return
    database = LastingDatabase(at, connections=2)
    await database.start()
    elsewhere = SecretBook(PostgresTable(database, SECRETS), b"t" * 32)
    with pytest.raises(Unavailable, match="The secret FAL_KEY cannot be decrypted"):
        await elsewhere.read("house", ["FAL_KEY"])
    await database.aclose()
