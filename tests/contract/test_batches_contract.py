"""Contract of ``BatchBook``: run over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.batches.batch import (
    BatchError,
    BatchLine,
    BatchStatus,
    BatchStop,
    LineResult,
    NewBatch,
    StoredBatch,
)
from serve_app.domain.errors import Overloaded
from serve_app.domain.ports import Queue
from serve_app.domain.upload import Upload, UploadBook
from serve_app.jobs.jobs import JobKind, Jobs
from serve_app.jobs.postgres import PostgresJobs
from serve_app.queue.batches import work as work_module
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.telemetry.clock import SystemClock
from tests.fakes.batches import FakeBatches
from tests.fakes.queue import FakeQueue
from tests.fakes.uploads import FakeUploads
from tests.queue.connections import LastingDatabase
from tests.queue.requests import TENANT, lease, make_finish, new, new_id

ACTOR = Actor("key-1", "192.0.2.1")
DAY_S = 86_400.0
MOST = 100


@pytest.fixture
async def uploads(queue: Queue, at: str | None) -> AsyncIterator[UploadBook]:
    """Book of the files' contents, which both kinds of batches look into."""
    if isinstance(queue.batches, FakeBatches):
        book = FakeUploads(SystemClock())
        queue.batches.files.uploads, book.batches = book, queue.batches
        yield book
        return
    assert at is not None
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresUploads(database, Retention())
    await database.aclose()


async def upload_file(uploads: UploadBook, name: str, tenant: str = TENANT) -> str:
    key = f"u/{name}/file.bin"
    await uploads.open(Upload(key, name, tenant, "application/octet-stream"))
    assert await uploads.finish(key, 7)
    return key


def make_batch(batch: str = "batch_1", **changes: Any) -> NewBatch:
    fields: dict[str, Any] = {
        "id": batch,
        "tenant": TENANT,
        "key_id": "key-1",
        "origin": "http://here",
        "endpoint": "/v1/images/generations",
        "input_file": "file-1",
        "input_key": "u/1/file.bin",
        "window_s": DAY_S,
    }
    return NewBatch(**{**fields, **changes})


def lines(count: int) -> Sequence[BatchLine]:
    return [BatchLine(n, f"line {n}", 100 * n, 90) for n in range(1, count + 1)]


async def begin_batch(queue: Queue, count: int = 3, **changes: Any) -> StoredBatch:
    new_batch = make_batch(**{"batch": changes.pop("id", "batch_1"), **changes})
    await queue.batches.create(new_batch, MOST)
    work = queue.batches.work
    await work.add_lines(new_batch.id, lines(count))
    assert await work.begin(new_batch.id, count)
    return await find_batch(queue, new_batch.id)


async def find_batch(queue: Queue, batch: str = "batch_1") -> StoredBatch:
    known = await queue.batches.work.find(batch)
    assert known is not None
    return known


def good(line: int) -> LineResult:
    return LineResult(line, succeeded=True, response={"status_code": 200}, inlined=("k",))


def bad(line: int) -> LineResult:
    return LineResult(line, succeeded=False, error={"code": "no"})


async def test_a_new_batch_is_to_be_validated(queue: Queue) -> None:
    metadata, headers = {"job": "night"}, {"x-fal-store-io": "0"}
    created = await queue.batches.create(
        make_batch(metadata=metadata, keep_outputs_s=3600, max_cost="5 EUR", headers=headers), MOST
    )
    assert created == await queue.batches.get(TENANT, "batch_1")
    assert [batch.id for batch in await queue.batches.work.active(10)] == ["batch_1"]
    assert (created.status, created.metadata) == (BatchStatus.VALIDATING, metadata)
    assert (created.max_cost, created.headers) == ("5 EUR", headers)
    assert (created.expires_at - created.created_at).total_seconds() == DAY_S
    assert (created.total, created.completed, created.failed, created.errors) == (0, 0, 0, ())


async def test_a_batch_belongs_to_its_tenant(queue: Queue) -> None:
    await begin_batch(queue)
    assert await queue.batches.get("bob", "batch_1") is None
    assert await queue.batches.page("bob") == []
    assert await queue.batches.page("bob", after="batch_1") == []
    assert await queue.batches.cancel("bob", "batch_1", ACTOR) is None
    assert (await find_batch(queue)).stop is None


async def test_batches_are_listed_newest_first_in_pages(queue: Queue) -> None:
    for number in range(5):
        await queue.batches.create(make_batch(f"batch_{number}"), MOST)
    first = await queue.batches.page(TENANT, limit=2)
    assert [batch.id for batch in first] == ["batch_4", "batch_3"]
    rest = await queue.batches.page(TENANT, after="batch_3", limit=9)
    assert [batch.id for batch in rest] == ["batch_2", "batch_1", "batch_0"]
    assert await queue.batches.page(TENANT, after="unknown") == []
    # One that was deleted after its page was read.
    at = first[-1].created_at
    rest = await queue.batches.page(TENANT, after="batch_2a", limit=9, after_at=at)
    assert [batch.id for batch in rest] == ["batch_2", "batch_1", "batch_0"]
    await queue.batches.create(make_batch("batch_of_bob", tenant="bob"), MOST)
    assert await queue.batches.page(TENANT, after="batch_of_bob") == []


async def test_a_tenant_has_a_limit_of_batches_that_have_not_ended(queue: Queue) -> None:
    creating = (queue.batches.create(make_batch(f"batch_{n}"), 2) for n in range(6))
    answers = await asyncio.gather(*creating, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 4
    assert {refusal.reason for refusal in refused} == {"batches_limit"}
    await queue.batches.create(make_batch("batch_of_bob", tenant="bob"), 2)
    kept = next(answer.id for answer in answers if isinstance(answer, StoredBatch))
    await queue.batches.cancel(TENANT, kept, ACTOR)
    await queue.batches.create(make_batch("batch_later"), 2)


async def test_a_refused_batch_has_ended_with_its_errors(queue: Queue) -> None:
    await queue.batches.create(make_batch(), MOST)
    work, errors = queue.batches.work, (BatchError("invalid_json", "No.", 3, "url"),)
    await work.add_lines("batch_1", lines(2))
    await work.refuse("batch_1", errors)
    refused = await find_batch(queue)
    assert (refused.status, refused.errors) == (BatchStatus.FAILED, errors)
    assert refused.ended_at is not None
    assert await work.active(10) == []
    assert not await work.begin("batch_1", 2)
    assert await work.take("batch_1", [new_id()]) == []


async def test_lines_are_taken_once_in_their_order(queue: Queue) -> None:
    await begin_batch(queue, 5)
    work, ids = queue.batches.work, [new_id() for _ in range(3)]
    await work.add_lines("batch_1", lines(9))  # a second validation, too late
    taken = await work.take("batch_1", ids)
    assert [(line.line, line.request_id) for line in taken] == [
        (1, ids[0]),
        (2, ids[1]),
        (3, ids[2]),
    ]
    assert (taken[1].custom_id, taken[1].start, taken[1].size) == ("line 2", 200, 90)
    again = await work.take("batch_1", [new_id() for _ in range(9)])
    assert [line.line for line in again] == [4, 5]
    assert await work.in_flight("batch_1") == 5
    assert await work.unsent("batch_1", 2) == taken[:2]


async def test_two_workers_at_once_take_no_line_twice(queue: Queue) -> None:
    await begin_batch(queue, 30)
    taking = (queue.batches.work.take("batch_1", [new_id() for _ in range(7)]) for _ in range(6))
    taken = [line for some in await asyncio.gather(*taking) for line in some]
    assert len({line.line for line in taken}) == len(taken)
    assert len({line.request_id for line in taken}) == len(taken)


async def test_a_line_that_was_put_back_keeps_the_id_of_its_request(queue: Queue) -> None:
    await begin_batch(queue, 1)
    work = queue.batches.work
    (line,) = await work.take("batch_1", [new_id()])
    await work.put_back("batch_1", [1])
    assert await work.in_flight("batch_1") == 0
    assert await work.take("batch_1", [new_id()]) == [line]


async def test_a_sent_line_ends_with_its_request_or_with_its_deletion(queue: Queue) -> None:
    await begin_batch(queue, 3)
    work, requests = queue.batches.work, [new() for _ in range(3)]
    taken = await work.take("batch_1", [sent.id for sent in requests])
    for request in requests:
        await queue.submit(request)
    await work.mark_sent("batch_1", [1, 2, 3])
    assert await work.running("batch_1", 9) == taken
    assert await work.ended_lines("batch_1", 9) == []
    await queue.finish(make_finish((await lease(queue)).key))
    await queue.cancel(TENANT, requests[1].id)
    await queue.delete(TENANT, requests[1].id)
    assert await work.ended_lines("batch_1", 9) == taken[:2]
    assert await work.running("batch_1", 9) == taken[2:]
    assert await work.unsent("batch_1", 9) == []


async def test_each_end_of_a_line_counts_once(queue: Queue) -> None:
    await begin_batch(queue, 3)
    work = queue.batches.work
    await work.take("batch_1", [new_id(), new_id()])
    await asyncio.gather(*(work.settle("batch_1", [good(1), bad(2)]) for _ in range(4)))
    await work.settle("batch_1", [bad(1), good(2), good(3), good(99)])  # 3 was not taken
    known = await find_batch(queue)
    assert (known.total, known.completed, known.failed) == (3, 1, 1)
    (line,) = await work.results("batch_1", succeeded=True, after=0, most=9)
    assert (line.custom_id, line.result.response) == ("line 1", {"status_code": 200})
    assert list(line.result.inlined) == ["k"]
    (other,) = await work.results("batch_1", succeeded=False, after=0, most=9)
    assert (other.custom_id, other.result.error) == ("line 2", {"code": "no"})
    assert await work.results("batch_1", succeeded=False, after=2, most=9) == []


async def test_a_result_may_have_texts_that_postgresql_cannot_hold(queue: Queue) -> None:
    await begin_batch(queue, 2)
    work, body = queue.batches.work, {"text": "z\0\ud800"}
    await work.take("batch_1", [new_id(), new_id()])
    await work.settle("batch_1", [LineResult(1, succeeded=True, response={"body": body}), bad(2)])
    known = await find_batch(queue)
    assert (known.completed, known.failed) == (1, 1)
    (line,) = await work.results("batch_1", succeeded=True, after=0, most=9)
    assert line.result.response == {"body": body}


async def test_a_batch_ends_when_all_its_lines_have_and_its_files_are_written(
    queue: Queue,
) -> None:
    await begin_batch(queue, 2)
    work = queue.batches.work
    await work.take("batch_1", [new_id(), new_id()])
    await work.settle("batch_1", [good(1)])
    assert not await work.finalize("batch_1")
    await work.settle("batch_1", [bad(2)])
    assert await work.finalize("batch_1")
    assert (await find_batch(queue)).status is BatchStatus.FINALIZING
    stopped = await queue.batches.cancel(TENANT, "batch_1", ACTOR)  # too late
    assert stopped is not None
    assert stopped.stop is None
    assert await work.finish("batch_1", "file-out", "file-errors")
    assert not await work.finish("batch_1", None, None)
    ended = await find_batch(queue)
    assert ended.status is BatchStatus.COMPLETED
    assert (ended.output_file, ended.error_file) == ("file-out", "file-errors")
    assert (ended.total, ended.completed, ended.failed) == (2, 1, 1)
    assert ended.ended_at is not None
    assert await work.results("batch_1", succeeded=True, after=0, most=9) == []


async def test_a_cancelled_batch_sends_nothing_more(queue: Queue) -> None:
    await begin_batch(queue, 5)
    work = queue.batches.work
    await work.take("batch_1", [new_id(), new_id()])
    stopped = await queue.batches.cancel(TENANT, "batch_1", ACTOR)
    assert stopped is not None
    assert (stopped.status, stopped.stop) == (BatchStatus.CANCELLING, BatchStop.CANCELLED)
    assert stopped.cancelling_at is not None
    assert await queue.batches.cancel(TENANT, "batch_1", ACTOR) == stopped
    assert await work.take("batch_1", [new_id()]) == []
    assert await work.drop_waiting("batch_1", 2, {"code": "batch_cancelled"}) == 2
    assert await work.drop_waiting("batch_1", 2, {"code": "batch_cancelled"}) == 1
    assert await work.drop_waiting("batch_1", 2, {"code": "batch_cancelled"}) == 0
    assert not await work.finalize("batch_1")
    await work.settle("batch_1", [good(1), bad(2)])
    assert await work.finalize("batch_1")
    assert await work.finish("batch_1", "file-out", None)
    ended = await find_batch(queue)
    assert (ended.status, ended.completed, ended.failed) == (BatchStatus.CANCELLED, 1, 4)


async def test_a_batch_that_is_being_validated_is_cancelled_at_once(queue: Queue) -> None:
    await queue.batches.create(make_batch(), MOST)
    stopped = await queue.batches.cancel(TENANT, "batch_1", ACTOR)
    assert stopped is not None
    assert stopped.status is BatchStatus.CANCELLED
    assert not await queue.batches.work.begin("batch_1", 1)


async def test_no_line_stays_of_a_batch_that_ends_while_it_is_validated(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "LINES_AT_ONCE", 2)
    work = queue.batches.work
    await begin_batch(queue, 4, id="running")
    for batch, window_s in (("cancelled", DAY_S), ("expired", 0.0), ("validating", DAY_S)):
        await queue.batches.create(make_batch(batch, window_s=window_s), MOST)
        await work.add_lines(batch, lines(3))
    await queue.batches.cancel(TENANT, "cancelled", ACTOR)
    await work.expire()
    await work.add_lines("cancelled", lines(4))  # too late
    await work.forget_lines()
    left = {
        batch: await work.drop_waiting(batch, 9, {"code": "no"})
        for batch in ("running", "cancelled", "expired", "validating")
    }
    assert left == {"running": 4, "cancelled": 0, "expired": 0, "validating": 3}


async def test_a_batch_is_stopped_when_its_time_is_over(queue: Queue) -> None:
    await begin_batch(queue, 2, window_s=0.0)
    await begin_batch(queue, 2, id="batch_2")
    await queue.batches.create(make_batch("batch_3", window_s=0.0), MOST)
    work = queue.batches.work
    await work.expire()
    assert (await find_batch(queue)).stop is BatchStop.EXPIRED
    assert (await find_batch(queue, "batch_2")).stop is None
    assert (await find_batch(queue, "batch_3")).status is BatchStatus.EXPIRED
    assert await work.take("batch_1", [new_id()]) == []
    assert await work.drop_waiting("batch_1", 9, {"code": "batch_expired"}) == 2
    assert await work.finalize("batch_1")
    assert await work.finish("batch_1", None, "file-errors")
    assert (await find_batch(queue)).status is BatchStatus.EXPIRED


def jobs_of(queue: Queue) -> Jobs:
    return queue.batches.jobs if isinstance(queue, FakeQueue) else PostgresJobs(queue._database)  # type: ignore[attr-defined]


async def test_the_webhook_of_a_batch_is_due_at_its_end(queue: Queue) -> None:
    await queue.batches.create(make_batch(webhook="https://example.com/done"), MOST)
    await queue.batches.create(make_batch("batch_2"), MOST)
    work, notices = queue.batches.work, JobKind("notice", first_wait_s=1.0, max_wait_s=1.0)
    assert not await jobs_of(queue).due_kinds(["notice"])
    await work.refuse("batch_1", [])
    await work.refuse("batch_2", [])
    (job,) = await jobs_of(queue).take(notices, 9)
    assert (job.key, job.tenant) == ("evt_1", TENANT)
    payload = dict(job.payload)
    assert abs(payload["body"].pop("created_at") - SystemClock().now().timestamp()) < 60
    body = {"id": "evt_1", "object": "event", "type": "batch.failed", "data": {"id": "batch_1"}}
    assert payload == {"url": "https://example.com/done", "about": "batch_1", "body": body}


async def test_the_webhook_of_a_batch_that_is_cancelled_is_due_at_its_end(queue: Queue) -> None:
    await queue.batches.create(make_batch(webhook="https://example.com/done"), MOST)
    await begin_batch(queue, id="batch_2", webhook="https://example.com/done")
    await queue.batches.cancel(TENANT, "batch_2", Actor("key-1"))
    assert not await jobs_of(queue).due_kinds(["notice"]), "requests of it may still run"
    await queue.batches.cancel(TENANT, "batch_1", Actor("key-1"))
    assert await jobs_of(queue).due_kinds(["notice"])


async def test_a_file_that_a_batch_reads_is_known_until_the_batch_has_ended(
    queue: Queue, uploads: UploadBook
) -> None:
    await begin_batch(queue)
    assert await uploads.read_by(TENANT, "u/1/file.bin") == "batch_1"
    assert await uploads.read_by("bob", "u/1/file.bin") is None
    assert await uploads.read_by(TENANT, "u/2/file.bin") is None
    await queue.batches.create(make_batch("batch_2", input_key="u/2/file.bin"), MOST)
    await queue.batches.work.refuse("batch_2", [])
    assert await uploads.read_by(TENANT, "u/2/file.bin") is None


async def test_results_of_other_keys_batches_can_be_left_out(
    queue: Queue, uploads: UploadBook
) -> None:
    files, keys = queue.batches.files, dict[str, str]()
    await begin_batch(queue, id="batch_1", key_id="key-1")
    await begin_batch(queue, id="batch_2", key_id="key-2")
    for name, batch in (
        ("input", None),
        ("own", "batch_1"),
        ("other", "batch_2"),
        ("aged", "batch_0"),  # whose rows are deleted
    ):
        keys[name] = await upload_file(uploads, name)
        await files.add(f"file-{name}", TENANT, keys[name], "x", "batch", batch)
    seen = [keys["own"], keys["input"]]
    assert [file.key for file in await uploads.page(TENANT, batches_of="key-1")] == seen
    assert [file.key for file in await files.page(TENANT, batches_of="key-1")] == seen
    assert len(await uploads.page(TENANT)) == len(await files.page(TENANT)) == 4
    for name, key in keys.items():
        shown = key in seen
        assert (await uploads.find_file(TENANT, key, "key-1") is not None) is shown
        assert (await files.get(TENANT, f"file-{name}", "key-1") is not None) is shown
        assert await uploads.delete(TENANT, key, None, "key-1") is shown
    assert len(await uploads.page(TENANT)) == 2


async def test_a_file_is_there_as_long_as_its_upload(queue: Queue, uploads: UploadBook) -> None:
    files, key = queue.batches.files, await upload_file(uploads, "one")
    added = await files.add("file-1", TENANT, key, "prompts.jsonl", "batch")
    assert added is not None
    assert (added.size, added.name, added.purpose) == (7, "prompts.jsonl", "batch")
    assert await files.get(TENANT, "file-1") == added
    assert await files.get("bob", "file-1") is None
    assert await uploads.delete(TENANT, key)
    assert await files.get(TENANT, "file-1") is None
    assert await files.page(TENANT) == []
    assert await files.add("file-2", TENANT, key, "late.jsonl", "batch") is None


async def test_files_of_another_tenants_upload_cannot_be_added(
    queue: Queue, uploads: UploadBook
) -> None:
    key = await upload_file(uploads, "one", tenant="bob")
    assert await queue.batches.files.add("file-1", TENANT, key, "x", "batch") is None


async def test_files_are_listed_in_pages_in_both_orders(queue: Queue, uploads: UploadBook) -> None:
    files = queue.batches.files
    for number in range(4):
        key = await upload_file(uploads, f"n{number}")
        purpose = "batch" if number else "batch_output"
        await files.add(
            f"file-{number}", TENANT, key, "x", purpose, "batch_1" if not number else None
        )
    newest = await files.page(TENANT, limit=3)
    assert [file.id for file in newest] == ["file-3", "file-2", "file-1"]
    rest = await files.page(TENANT, after="file-1")
    assert [file.id for file in rest] == ["file-0"]
    inputs = await files.page(TENANT, purpose="batch", ascending=True, after="file-1")
    assert [file.id for file in inputs] == ["file-2", "file-3"]
    assert await files.page(TENANT, after="unknown") == []
    assert [file.id for file in await files.written_by("batch_1")] == ["file-0"]
    for ascending in (True, False):
        assert await files.page("bob", ascending=ascending, batches_of="key-1") == []
    early, late = (
        await upload_file(uploads, "early", "bob"),
        await upload_file(uploads, "late", "bob"),
    )
    await files.add("file-of-bob", "bob", early, "x", "batch")
    await files.add("file-late", TENANT, await upload_file(uploads, "n5"), "x", "batch")
    await files.add("file-of-bob-2", "bob", late, "x", "batch")
    assert await files.page(TENANT, ascending=True, after="file-of-bob") == []
    assert await files.page(TENANT, after="file-of-bob-2") == []


async def test_a_page_goes_on_after_a_file_that_was_deleted_meanwhile(
    queue: Queue, uploads: UploadBook
) -> None:
    files = queue.batches.files
    for number in range(4):
        key = await upload_file(uploads, f"n{number}")
        await files.add(f"file-{number}", TENANT, key, "x", "batch")
    *_, last = await files.page(TENANT, limit=2)
    assert await uploads.delete(TENANT, last.key)
    for ascending, ids in ((False, ["file-1", "file-0"]), (True, ["file-3"])):
        rest = await files.page(
            TENANT, after=last.id, after_at=last.created_at, ascending=ascending
        )
        assert [file.id for file in rest] == ids
