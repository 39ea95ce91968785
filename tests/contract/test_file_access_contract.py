"""Contract of ``FileAccessBook``: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.media.file_access import AccessDecision, FileAccess, FileAccessBook
from serve_app.domain.upload import Upload
from serve_app.postgres import file_access
from serve_app.postgres.database import Database
from serve_app.postgres.file_access import PostgresFileAccess
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.telemetry.clock import SystemClock
from tests.fakes.file_access import FakeFileAccess
from tests.queue.connections import LastingDatabase

ACTOR = Actor("key-1")
KEPT, GONE = "p/x/u/1/kept.png", "p/x/u/2/gone.png"
ACCESS = FileAccess(
    "a", AccessDecision.HIDE, {"b": AccessDecision.ALLOW, 'c"\\': AccessDecision.FORBID}
)


@pytest.fixture
async def book(at: str | None) -> AsyncIterator[FileAccessBook]:
    """Registry of an installation whose only file is ``KEPT``."""
    if at is None:
        fake = FakeFileAccess(SystemClock())
        fake.files = {KEPT}
        yield fake
        return
    database = LastingDatabase(at, connections=2)
    await database.start()
    await PostgresUploads(database, Retention()).open(Upload(KEPT, "1", "a", "image/png"))
    yield PostgresFileAccess(database)
    await database.aclose()


async def test_rules_are_found_by_their_id_however_often_they_are_kept(
    book: FileAccessBook,
) -> None:
    for access in (ACCESS, ACCESS.with_keyed_id(b"secret")):
        assert await book.find(access.id) is None
        assert all(await asyncio.gather(*(book.keep(access) for _ in range(5))))
        rule = await book.find(access.id)
        assert rule == access
        assert rule is not None
        assert rule.id == access.id


async def test_rules_of_a_tenant_come_in_pages(book: FileAccessBook) -> None:
    own = [ACCESS.with_keyed_id(str(number).encode()) for number in range(5)]
    for access in (*own, FileAccess("b", AccessDecision.FORBID)):
        assert await book.keep(access)
    rules: list[FileAccess] = []
    while page := await book.page("a", rules[-1].id if rules else "", 2):
        rules += page
    assert {rule.id for rule in rules} == {rule.id for rule in own}
    assert len(rules) == 5
    assert await book.page("c", "", 2) == []


async def test_a_tenant_has_only_so_many_different_rules(
    book: FileAccessBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_access, "MAX_RULES_PER_TENANT", 1)
    monkeypatch.setattr("tests.fakes.file_access.MAX_RULES_PER_TENANT", 1)
    assert await book.keep(ACCESS)
    assert await book.keep(ACCESS), "they are the same"
    assert not await book.keep(FileAccess("a", AccessDecision.FORBID))
    assert await book.keep(FileAccess("b", AccessDecision.FORBID)), "of another tenant"


async def test_revocations_come_in_order_and_only_the_new_ones(book: FileAccessBook) -> None:
    until = SystemClock().now() + timedelta(hours=1)
    assert await book.revoke("a", KEPT, "one", until, ACTOR)
    assert await book.revoke("a", KEPT, "", None, ACTOR)
    first, second = await book.revocations(0)
    assert (first.key, first.signature, first.expires_at) == (KEPT, "one", until)
    assert (second.key, second.signature, second.generation) == (KEPT, "", 1)
    assert await book.revocations(first.number) == [second]
    assert await book.revoke("a", KEPT, "", None, ACTOR)
    (third,) = await book.revocations(second.number)
    assert (third.generation, third.number > second.number) == (2, True)
    assert await book.revocations(third.number) == []


async def test_none_of_many_revocations_at_once_is_missed(book: FileAccessBook) -> None:
    seen: set[str] = set()
    last = 0

    async def follow() -> None:
        nonlocal last
        while len(seen) < 30:
            for revocation in await book.revocations(last):
                assert revocation.number > last
                last = revocation.number
                seen.add(revocation.signature)
            await asyncio.sleep(0)

    following = asyncio.create_task(follow())
    until = SystemClock().now() + timedelta(hours=1)
    await asyncio.gather(*(book.revoke("a", KEPT, f"s{n}", until, ACTOR) for n in range(30)))
    await following


async def test_a_tenant_revokes_only_so_many_single_urls_but_all_of_a_file_always(
    book: FileAccessBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_access, "MAX_REVOCATIONS_PER_TENANT", 1)
    monkeypatch.setattr("tests.fakes.file_access.MAX_REVOCATIONS_PER_TENANT", 1)
    assert await book.revoke("a", KEPT, "one", None, ACTOR)
    assert not await book.revoke("a", KEPT, "two", None, ACTOR)
    assert await book.revoke("a", KEPT, "", None, ACTOR)
    assert await book.revoke("b", KEPT, "two", None, ACTOR)


async def test_what_says_nothing_any_more_is_forgotten(book: FileAccessBook) -> None:
    now = SystemClock().now()
    await book.revoke("a", KEPT, "past", now - timedelta(hours=2), ACTOR)
    await book.revoke("a", KEPT, "later", now + timedelta(hours=2), ACTOR)
    await book.revoke("a", KEPT, "", None, ACTOR)
    await book.revoke("a", GONE, "", None, ACTOR)
    await book.forget()
    left = [(revocation.key, revocation.signature) for revocation in await book.revocations(0)]
    assert left == [(KEPT, "later"), (KEPT, "")]


async def test_a_revocation_is_in_the_audit(database: Database) -> None:
    await PostgresFileAccess(database).revoke("a", KEPT, "one", None, ACTOR)
    ((actor, action, subject, detail),) = await database.rows(
        "SELECT actor, action, subject, detail FROM audit"
    )
    assert (actor, action, subject) == ("key-1", "file.revoke", KEPT)
    assert detail == {"tenant": "a", "urls": "one"}
