"""Contract of ``UploadBook``: run over the fake and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from serve_app.domain.upload import Upload, UploadBook, UploadPart, UploadUse
from serve_app.queue.store.config import DAY_S, Retention
from serve_app.queue.transactions.uploads import ABANDONED_S, AGAIN_S, PostgresUploads
from serve_app.settings import TenantLimits
from tests.fakes.clock import FakeClock
from tests.fakes.uploads import FakeUploads
from tests.queue.connections import LastingDatabase

RETENTION = Retention(days=30, tenants={"hasty": TenantLimits(retention_days=1)})
UPLOAD = Upload("u/abc/cat.png", "0123", "studio", "image/png", key_id="dk_cat")
IN_PARTS = replace(UPLOAD, key="u/def/video.mp4", parts_id="p1")


@dataclass
class Books:
    book: UploadBook
    forever: UploadBook  # the same without any retention
    later: Callable[[float], Awaitable[None]]  # seconds pass


@pytest.fixture(params=["fake", "postgres"])
async def books(request: pytest.FixtureRequest) -> AsyncIterator[Books]:
    if request.param == "fake":
        clock = FakeClock()
        book, forever = FakeUploads(clock, RETENTION), FakeUploads(clock)
        forever._entries = book._entries

        async def later(seconds: float) -> None:
            clock.advance(seconds)

        yield Books(book, forever, later)
        return
    database = LastingDatabase(request.getfixturevalue("conninfo"), connections=2)
    await database.start()

    async def pass_by(seconds: float) -> None:
        await database.rows(
            "UPDATE uploads SET created_at = created_at - make_interval(secs => %(s)s), "
            "due_at = due_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )

    yield Books(
        PostgresUploads(database, RETENTION), PostgresUploads(database, Retention()), pass_by
    )
    await database.aclose()


async def unwanted_keys(book: UploadBook) -> set[str]:
    return {upload.key for upload in await book.take_unwanted(100)}


async def test_what_was_opened_is_found_by_key_and_id_alone(books: Books) -> None:
    await books.book.open(UPLOAD)
    assert await books.book.find(UPLOAD.key, UPLOAD.id) == UPLOAD
    assert await books.book.find(UPLOAD.key, "0124") is None
    assert await books.book.find("u/abc/dog.png", UPLOAD.id) is None


async def test_what_is_whole_says_its_size_and_is_kept(books: Books) -> None:
    await books.book.open(UPLOAD)
    assert await books.book.finish(UPLOAD.key, 7)
    assert await books.book.finish(UPLOAD.key, 7)
    assert await books.book.find(UPLOAD.key, UPLOAD.id) == replace(UPLOAD, size=7)
    await books.later(ABANDONED_S * 10)
    assert await unwanted_keys(books.book) == set()


async def test_an_upload_that_is_never_finished_is_taken_for_abandoned(books: Books) -> None:
    await books.book.open(UPLOAD)
    await books.later(ABANDONED_S - 60)
    assert await books.book.find(UPLOAD.key, UPLOAD.id) is not None  # it is in use
    await books.later(ABANDONED_S - 60)
    assert await unwanted_keys(books.book) == set()
    await books.later(120)
    assert await unwanted_keys(books.book) == {UPLOAD.key}
    assert await books.book.find(UPLOAD.key, UPLOAD.id) is None
    assert not await books.book.finish(UPLOAD.key, 7)


async def test_what_is_unwanted_comes_again_until_it_is_forgotten(books: Books) -> None:
    await books.book.open(UPLOAD)
    await books.book.abandon(UPLOAD.key)
    assert await unwanted_keys(books.book) == {UPLOAD.key}
    assert await unwanted_keys(books.book) == set()
    await books.later(AGAIN_S + 1)
    assert await unwanted_keys(books.book) == {UPLOAD.key}
    await books.book.forget([UPLOAD.key])
    await books.later(AGAIN_S + 1)
    assert await unwanted_keys(books.book) == set()


async def test_a_tenant_gives_up_its_own_and_no_others(books: Books) -> None:
    await books.book.open(UPLOAD)
    await books.book.finish(UPLOAD.key, 7)
    assert not await books.book.delete("other", UPLOAD.key)
    assert await books.book.find(UPLOAD.key, UPLOAD.id) is not None
    assert await books.book.delete(UPLOAD.tenant, UPLOAD.key)
    assert not await books.book.delete(UPLOAD.tenant, UPLOAD.key)
    assert await unwanted_keys(books.book) == {UPLOAD.key}


async def test_what_is_wanted_cannot_be_forgotten(books: Books) -> None:
    await books.book.open(UPLOAD)
    await books.book.forget([UPLOAD.key])
    assert await books.book.find(UPLOAD.key, UPLOAD.id) == UPLOAD


async def test_one_is_kept_as_long_as_its_client_asked_from_when_it_was_whole(
    books: Books,
) -> None:
    await books.book.open(replace(UPLOAD, keep_s=60.0))
    await books.later(100)
    await books.book.finish(UPLOAD.key, 7)
    await books.later(50)
    assert await unwanted_keys(books.book) == set()
    await books.book.finish(UPLOAD.key, 7)  # a second finish counts from the first time
    await books.later(11)
    assert await unwanted_keys(books.book) == {UPLOAD.key}


async def test_one_is_kept_no_longer_than_its_tenants_retention(books: Books) -> None:
    hasty = replace(UPLOAD, key="u/x/hasty.png", tenant="hasty")
    open_one = replace(UPLOAD, key="u/x/open.png", tenant="hasty")
    for upload in (UPLOAD, hasty, open_one):
        await books.book.open(upload)
    for upload in (UPLOAD, hasty):
        await books.book.finish(upload.key, 7)
    await books.later(DAY_S + 1)
    await books.book.find(open_one.key, open_one.id)
    await books.forever.mark_aged()
    assert await unwanted_keys(books.book) == set()
    await books.book.mark_aged()
    assert await unwanted_keys(books.book) == {hasty.key}
    await books.later(29 * DAY_S)
    await books.book.mark_aged()
    assert await unwanted_keys(books.book) == {hasty.key, UPLOAD.key, open_one.key}


async def test_parts_are_counted_each_number_once(books: Books) -> None:
    await books.book.open(IN_PARTS)
    assert await books.book.add_part(IN_PARTS.key, UploadPart(2, "b", 10)) == 10
    assert await books.book.add_part(IN_PARTS.key, UploadPart(1, "a", 5)) == 15
    assert await books.book.add_part(IN_PARTS.key, UploadPart(2, "c", 20)) == 25
    assert await books.book.parts(IN_PARTS.key) == {
        1: UploadPart(1, "a", 5),
        2: UploadPart(2, "c", 20),
    }


async def test_no_part_is_taken_of_what_is_whole_or_given_up(books: Books) -> None:
    given_up = replace(IN_PARTS, key="u/x/other.mp4")
    for upload in (IN_PARTS, given_up):
        await books.book.open(upload)
    await books.book.add_part(IN_PARTS.key, UploadPart(1, "a", 5))
    await books.book.finish(IN_PARTS.key, 5)
    await books.book.abandon(given_up.key)
    for upload in (IN_PARTS, given_up, replace(IN_PARTS, key="u/never/was.mp4")):
        assert await books.book.add_part(upload.key, UploadPart(2, "b", 10)) is None
    assert await books.book.parts(IN_PARTS.key) == {}


async def test_a_tenants_whole_files_are_listed_the_latest_first_by_pages(books: Books) -> None:
    keys = [f"u/{number}/a.png" for number in range(5)]
    owners = {"u/before/a.png": "other", **dict.fromkeys(keys, "studio"), "u/after/a.png": "other"}
    for key, tenant in owners.items():
        await books.book.open(replace(UPLOAD, key=key, tenant=tenant))
        await books.book.finish(key, 7)
        await books.later(1)
    await books.book.open(replace(UPLOAD, key="u/open/a.png"))
    await books.book.delete(UPLOAD.tenant, keys[1])
    first = await books.book.page(UPLOAD.tenant, limit=2)
    rest = await books.book.page(
        UPLOAD.tenant, before=(first[-1].created_at, first[-1].key), limit=9
    )
    assert [file.key for file in (*first, *rest)] == [keys[4], keys[3], keys[2], keys[0]]
    assert {(file.size, file.media_type) for file in first} == {(7, "image/png")}


async def test_what_its_client_says_of_a_file_is_kept_with_it(books: Books) -> None:
    metadata = {"album": "foxes", "of": [1, None]}
    await books.book.open(replace(UPLOAD, metadata=metadata))
    await books.book.finish(UPLOAD.key, 7)
    file = await books.book.find_file(UPLOAD.tenant, UPLOAD.key)
    assert file is not None
    (listed,) = await books.book.page(UPLOAD.tenant)
    assert file.metadata == listed.metadata == metadata


async def test_a_file_is_shown_to_its_tenant_only_and_while_it_is_wanted(books: Books) -> None:
    await books.forever.open(UPLOAD)
    assert await books.forever.find_file(UPLOAD.tenant, UPLOAD.key) is None
    await books.forever.finish(UPLOAD.key, 7)
    file = await books.forever.find_file(UPLOAD.tenant, UPLOAD.key)
    assert file is not None
    assert (file.key, file.size, file.expires_at) == (UPLOAD.key, 7, None)
    assert await books.forever.find_file("other", UPLOAD.key) is None
    await books.forever.delete(UPLOAD.tenant, UPLOAD.key)
    assert await books.forever.find_file(UPLOAD.tenant, UPLOAD.key) is None


@pytest.mark.parametrize(("keep_s", "tenant", "days"), [(86400.0, "studio", 1), (None, "hasty", 1)])
async def test_it_says_when_a_file_ends(
    books: Books, keep_s: float | None, tenant: str, days: int
) -> None:
    await books.book.open(replace(UPLOAD, tenant=tenant, keep_s=keep_s))
    await books.book.finish(UPLOAD.key, 7)
    file = await books.book.find_file(tenant, UPLOAD.key)
    assert file is not None
    assert file.expires_at is not None
    left_s = (file.expires_at - file.created_at).total_seconds()
    assert left_s == pytest.approx(days * DAY_S, abs=60)


async def test_what_a_tenant_uses_are_its_files_and_parts_until_they_are_deleted(
    books: Books,
) -> None:
    await books.book.open(UPLOAD)
    await books.book.finish(UPLOAD.key, 7)
    await books.book.open(IN_PARTS)
    await books.book.add_part(IN_PARTS.key, UploadPart(1, "e1", 5))
    await books.book.add_part(IN_PARTS.key, UploadPart(1, "e2", 4))
    await books.book.add_part(IN_PARTS.key, UploadPart(2, "e3", 30))
    assert await books.book.usage(UPLOAD.tenant) == UploadUse(41, 1)
    assert await books.book.usage("other") == UploadUse(0, 0)
    totals = await books.book.totals([UPLOAD.tenant, "other"])
    assert (totals[UPLOAD.tenant], totals.get("other", 0)) == (7, 0)
    await books.book.finish(IN_PARTS.key, 34)
    assert await books.book.usage(UPLOAD.tenant) == UploadUse(41, 0)
    await books.book.delete(UPLOAD.tenant, UPLOAD.key)
    assert await books.book.usage(UPLOAD.tenant) == UploadUse(34, 0)
    assert await books.book.totals([UPLOAD.tenant]) == {UPLOAD.tenant: 34}
